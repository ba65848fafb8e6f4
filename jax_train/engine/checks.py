"""Which fields have to go together, as far as can be told without JAX.

What each may hold by itself is in `field_checks`.
"""

from collections.abc import Sequence

from ml_collections import ConfigDict

from jax_train.config import ranges
from jax_train.data.split import AUTO
from jax_train.engine.field_checks import (
    BALANCED,
    CHECKS,
    CROSS_ENTROPY,
    LOSSES,
    SCHEDULE_FREE,
)
from jax_train.errors import UserError
from jax_train.printing import counted

# Fields of `config.optim` that a group may have of its own, as it may all of `config.schedule`.
_OF_GROUP = ("name", "learning_rate", "weight_decay", "beta1", "beta2", "eps", "momentum")
_OF_GROUP += ("nesterov", "always_adapt", "muon_steps", "muon_scale", "muon_normalize")


def check(config: ConfigDict) -> None:
    """Check what has to go together in the recipe of model, optimizer and augmentation.

    Raises:
      UserError: names the field, its value and what was expected.
    """
    _check_source(config)
    _check_schedule(config)
    _check_optimizer(config)
    _check_average(config)
    _check_groups(config)
    probe, epochs = config.train.probe_epochs, config.train.epochs
    if probe >= epochs:
        expected = f"a whole number from 0 up to but not including config.train.epochs={epochs}"
        raise ranges.refusal("train.probe_epochs", probe, expected)
    weights, classes = config.train.class_weights, config.model.num_classes
    if weights not in (None, BALANCED) and classes not in (None, len(weights)):
        expected = f"a weight for each of {counted(classes, 'class', 'classes')}, or 'balanced'"
        raise ranges.refusal("train.class_weights", weights, expected)
    _check_loss(config)
    check_lengths(config.data.mean, config.data.std)
    repeats, batch = config.augment.repeats, config.train.batch_size
    if repeats > batch:
        expected = f"at most config.train.batch_size={batch}, so that a batch has other images too"
        raise ranges.refusal("augment.repeats", repeats, expected)
    if config.augment.flip_mode != "random" and not config.augment.flip:
        cure = "Images are mirrored with --config.augment.flip=true."
        expected = "'random' without config.augment.flip"
        raise ranges.refusal("augment.flip_mode", config.augment.flip_mode, expected, cure)
    side = config.augment.resize or config.data.image_size
    if side:
        output_size(config.augment, side, side)


def _check_source(config: ConfigDict) -> None:
    model, example = config.model, "timm/vit_small_patch16_224.augreg_in21k"
    if model.init_from is None:
        if model.name == AUTO:
            cure = f"Say where they are: --config.model.init_from={example}, a folder or file of "
            cure += "weights, or a run folder; or train from scratch: --config.model.name=NAME."
            expected = f"weights to start from, because config.model.name is {AUTO!r}"
            raise ranges.refusal("model.init_from", None, expected, cure)
        for field in ("init_revision", "init_sha256"):
            if model[field] is not None:
                expected = "None without config.model.init_from"
                raise ranges.refusal(f"model.{field}", model[field], expected)
    elif config.compare:
        cure = "Train each model with a command of its own, then compare the run folders: "
        cure += "python -m jax_train compare RUN RUN."
        expected = "no further models with config.model.init_from, whose weights fit one"
        raise ranges.refusal("compare", config.compare, expected, cure)


def _check_loss(config: ConfigDict) -> None:
    train = config.train
    for field, off in (("bce_threshold", None), ("bce_sum", False)):
        if train[field] != off and train.loss == CROSS_ENTROPY:
            expected = f"{off} with config.train.loss={CROSS_ENTROPY!r}"
            cure = f"It is for --config.train.loss={LOSSES[1]}."
            raise ranges.refusal(f"train.{field}", train[field], expected, cure)
    if train.bce_threshold == 0 and train.label_smoothing:
        expected = f"a number above 0 with config.train.label_smoothing={train.label_smoothing}"
        cure = "Smoothing leaves every class a share above 0, so that each would count as true."
        raise ranges.refusal("train.bce_threshold", train.bce_threshold, expected, cure)


def _check_schedule(config: ConfigDict, in_group: bool = False) -> None:
    schedule, epochs, name = config.schedule, config.train.epochs, config.schedule.name
    warmup, warmup_field = schedule.warmup_epochs, "schedule.warmup_epochs"
    if name == "onecycle" and schedule.unit == "epoch":
        expected = "'step', because onecycle changes the rate every step"
        raise ranges.refusal("schedule.unit", schedule.unit, expected)
    if name == "onecycle" and warmup > 0:
        expected = "0.0 with onecycle, which has a warm-up of its own: config.schedule.pct_start"
        raise ranges.refusal(warmup_field, warmup, expected, f"Add --config.{warmup_field}=0.")
    length, field = schedule.length_epochs, "schedule.length_epochs"
    beyond = length > epochs and not in_group  # the schedule of a group may be cut off
    if length > 0 and (name in ("onecycle", "constant") or beyond):
        expected = f"0.0, or with cosine, linear and trapezoid up to config.train.epochs={epochs}"
        raise ranges.refusal(field, length, expected)
    length, field = (length, field) if length else (epochs, "train.epochs")
    if warmup >= length:  # a recipe's warm-up is too long for a short run
        expected = f"a number from 0 up to but not including config.{field}={length}"
        cure = f"Add --config.{warmup_field}={max(0, min(1, length - 1))} to the command."
        raise ranges.refusal(warmup_field, warmup, expected, cure)
    if name == "trapezoid" and not 0 < schedule.cooldown_epochs <= length - warmup:
        expected = f"a number above 0 up to {length - warmup}, the epochs after the warm-up"
        cure = "A fifth to a half of the epochs is usual."
        raise ranges.refusal("schedule.cooldown_epochs", schedule.cooldown_epochs, expected, cure)
    if schedule.base_momentum > schedule.max_momentum:
        expected = f"at most config.schedule.max_momentum={schedule.max_momentum}"
        raise ranges.refusal("schedule.base_momentum", schedule.base_momentum, expected)


def _check_optimizer(config: ConfigDict) -> None:
    optim, schedule = config.optim, config.schedule
    cycles = schedule.name == "onecycle" and schedule.cycle_momentum
    still = not (optim.momentum > 0 or cycles)
    if optim.name == "sgd" and optim.nesterov and still:
        expected = "False without momentum: see config.optim.momentum"
        raise ranges.refusal("optim.nesterov", optim.nesterov, expected)
    if optim.name == "muon" and still:
        cure = "0.95 is usual, with --config.optim.nesterov=true."
        raise ranges.refusal("optim.momentum", optim.momentum, "more than 0.0 with muon", cure)
    if optim.name == SCHEDULE_FREE and schedule.name != "constant":
        expected = f"'constant' with {SCHEDULE_FREE}, whose average takes the place of a schedule"
        raise ranges.refusal("schedule.name", schedule.name, expected)


def _check_average(config: ConfigDict) -> None:
    """Refuse two averages of the weights at once, and the warm-up of none."""
    optim, decay = config.optim, config.train.ema_decay
    if config.train.ema_warmup != "none" and not decay:
        cure = "The average is on with --config.train.ema_decay=0.9998, for example."
        expected = "'none' without config.train.ema_decay"
        raise ranges.refusal("train.ema_warmup", config.train.ema_warmup, expected, cure)
    if optim.name == SCHEDULE_FREE and optim.lookahead_steps:
        expected = f"0 with {SCHEDULE_FREE}, which averages by itself"
        raise ranges.refusal("optim.lookahead_steps", optim.lookahead_steps, expected)
    other = optim.name if optim.name == SCHEDULE_FREE else ""
    other = other or (optim.lookahead_steps and "config.optim.lookahead_steps")
    if decay and other:
        expected = f"0.0 with {other}, whose average is what is evaluated"
        raise ranges.refusal("train.ema_decay", decay, expected)


def _check_groups(config: ConfigDict) -> None:
    """Check what the groups say, each as if it were the whole config."""
    free = config.optim.name == SCHEDULE_FREE
    known = {key: f"optim.{key}" for key in _OF_GROUP if not (free and key == "name")}
    if not free:  # whose average is worked out of one schedule
        known |= {field: field for field in CHECKS if field.startswith("schedule.")}
    for i, (_, fields) in enumerate(config.optim.groups):
        for key, value in fields.items():
            place = f"optim.groups[{i}].{key}"
            if key not in known:
                expected = f"none but {', '.join(key for key in known if '.' not in key)}"
                expected += "" if free else " and fields of the schedule, as in 'schedule.name'"
                raise ranges.refusal(place, value, expected, _IN_GROUP)
            ranges.check_value(place, value, CHECKS[known[key]]._replace(cure=_IN_GROUP))
        if fields.get("name") == SCHEDULE_FREE:
            expected = f"another optimizer: {SCHEDULE_FREE} is of all parameters or of none"
            raise ranges.refusal(f"optim.groups[{i}].name", SCHEDULE_FREE, expected, _IN_GROUP)
    for i, own in enumerate(group_configs(config)):
        try:
            _check_schedule(own, in_group=True)
            _check_optimizer(own)
        except UserError as error:
            field = str(error).removeprefix("config.").partition("=")[0]
            fields = config.optim.groups[i][1]
            is_own = field in (known.get(key) for key in fields)
            where = f" {field} is the group's own: change it in config.optim.groups." * is_own
            raise UserError(
                f"config.optim.groups[{i}], with all else as it is: {error}{where}"
            ) from None


_IN_GROUP = "Change it in config.optim.groups."


def group_configs(config: ConfigDict) -> list[ConfigDict]:
    """For each of `config.optim.groups` the config with what the group has of its own."""
    configs = []
    for _, fields in config.optim.groups:
        own = config.copy_and_resolve_references()
        own.optim.groups = ()
        named = {key if "." in key else f"optim.{key}": value for key, value in fields.items()}
        with own.ignore_type():  # whole numbers serve as numbers
            own.update_from_flattened_dict(named)
        configs.append(own)
    return configs


def check_lengths(mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
    """Raise a UserError where mean and std are of different numbers of channels."""
    if mean is not None and std is not None and len(mean) != len(std):
        expected = f"{counted(len(mean), 'number')}, as in config.data.mean={mean}"
        raise ranges.refusal("data.std", std, expected)


def mixes(config: ConfigDict) -> bool:
    """Whether the `augment` part of a config mixes images in pairs."""
    return config.mixup > 0 or config.cutmix > 0


def follows_examples(config: ConfigDict) -> bool:
    """Whether the `augment` part of a config asks which example of the split an image is."""
    return config.flip and config.flip_mode == "alternating"


def output_size(config: ConfigDict, height: int, width: int) -> tuple[int, int]:
    """Height and width, in pixels, of what the model gets from images of `height` x `width`.

    Args:
      config: the `augment` part of the config.

    Raises:
      UserError: the crop is larger than the image, or its padding is not smaller than that; what
        is cut out is larger.
    """
    size = (config.resize, config.resize) if config.resize else (height, width)
    if config.crop_size > min(size):
        expected = f"at most {min(size)} for images of {size[0]}x{size[1]} pixels"
        cure = "Larger ones are made with config.data.image_size (of folders) or config.augment."
        cure += "resize: a seventh more than the crop is usual, such as 256 for 224."
        raise ranges.refusal("augment.crop_size", config.crop_size, expected, cure)
    if config.crop_size:
        size = (config.crop_size,) * 2
    if config.crop_padding >= min(size):
        expected = f"less than {min(size)} for images of {size[0]}x{size[1]} pixels"
        cure = "A crop could hold nothing of the picture; an eighth of the side is usual."
        raise ranges.refusal("augment.crop_padding", config.crop_padding, expected, cure)
    if config.cutout > min(size):
        expected = f"at most {min(size)} for images of {size[0]}x{size[1]} pixels"
        raise ranges.refusal("augment.cutout", config.cutout, expected)
    return size
