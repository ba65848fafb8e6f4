"""What the fields may hold that the engine reads, as far as can be told without JAX.

Importing JAX takes a second, and a mistyped number is to be refused sooner. What needs devices or
models is checked in `parallel` and `models`.
"""

import re
from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict

from jax_train.config import ranges
from jax_train.data.split import AUTO
from jax_train.engine import policy_names
from jax_train.errors import UserError
from jax_train.printing import counted

SCHEDULE_FREE = "schedule_free_adamw"
OPTIMIZERS = ("adamw", "adam", "sgd", "lion", "lamb", "muon", SCHEDULE_FREE)  # of `optim`
MUON_SCALES = ("shape", "rms", "none")  # the keys of `muon.SCALES`
EMA_WARMUPS = ("none", "tf", "timm")  # the keys of `average.WARMUPS`
CROSS_ENTROPY = "cross_entropy"
LOSSES = (CROSS_ENTROPY, "binary_cross_entropy")  # the names of functions in `metrics`
BALANCED = ("balanced",)  # of config.train.class_weights
INTERPOLATIONS = ("bilinear", "bicubic")  # the keys of `resample.KERNELS`
POOLS = ("token", "avg", "token_and_avg")  # of `jax_models.tokens`
POSITIONS = ("learned", "sine")  # of `jax_models.cct`
SCHEDULES = ("cosine", "linear", "trapezoid", "onecycle", "constant")  # of `schedules`


def _compiles(pattern: object) -> bool:
    try:
        return isinstance(pattern, str) and bool(re.compile(pattern))
    except re.error:
        return False


def _is_scale(pair: object) -> bool:
    """Whether it is (regex, factor); a list after a way through JSON."""
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        return False
    return _compiles(pair[0]) and ranges.at_least(0).holds(pair[1])


def _is_group(pair: object) -> bool:
    """Whether it is (regex, {field: value}); what the values may be is told one by one."""
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        return False
    return _compiles(pair[0]) and isinstance(pair[1], Mapping) and len(pair[1]) > 0


def _of_channels(check: ranges.Check, least: str, name: str) -> ranges.Check:
    expected = f"a number {least} 1 for each channel, such as 0.5,0.5,0.5 (pixels are in [0, 1])"
    cure = f"Divide a {name} of 0..255 pixels by 255."
    return ranges.optional(ranges.each(check, expected, cure))


def _are_weights(value: object) -> bool:
    if not isinstance(value, tuple) or not value:
        return False
    return value == BALANCED or all(map(ranges.above(0).holds, value))


_WEIGHTS = "'balanced', or a number above 0 for each class, such as 1.0,2.5"
_RECIPE = {
    "seed": ranges.whole(0, 2**32 - 1),  # JAX takes 32 bits: a larger one is another
    "dtype": ranges.one_of(("float32", "bfloat16", "float64")),
    "train.loss": ranges.one_of(LOSSES),
    "train.bce_threshold": ranges.optional(ranges.rate),
    "train.bce_sum": ranges.switch,
    "train.label_smoothing": ranges.rate,
    "train.class_weights": ranges.optional(ranges.Check(_WEIGHTS, _are_weights)),
    "train.on_nonfinite": ranges.one_of(("stop", "skip")),
}
_REGEXES = "valid regexes, quoted and separated by commas: 'bias$','norm'"
_REGEX = ranges.each(ranges.Check("a regex", _compiles), _REGEXES)
_SCALES = "pairs of a valid regex and a factor of at least 0: ('bias$', 2.0), ('^head', 10.0)"
_GROUPS = "pairs of a valid regex and fields: ('^head', {'learning_rate': 0.01, 'momentum': 0.0})"
_OPTIM = {
    "train.epochs": ranges.whole(1, 1_000_000),  # the schedule is a table of all steps
    "optim.name": ranges.one_of(OPTIMIZERS),
    "optim.learning_rate": ranges.above(0),
    "optim.weight_decay": ranges.at_least(0),
    "train.freeze": _REGEX,
    "train.probe_epochs": ranges.whole(0),
    "optim.decay_exclude": _REGEX,
    "optim.layer_decay": ranges.share_above_0,
    "optim.lr_scale": ranges.each(ranges.Check("a pair", _is_scale), _SCALES),
    "optim.beta1": ranges.rate,
    "optim.beta2": ranges.rate,
    "optim.eps": ranges.above(0),
    "optim.momentum": ranges.rate,
    "optim.nesterov": ranges.switch,
    "optim.clip_norm": ranges.at_least(0),
    "optim.always_adapt": ranges.switch,
    "optim.muon_match": _REGEX,
    "optim.muon_steps": ranges.whole(1),
    "optim.muon_scale": ranges.one_of(MUON_SCALES),
    "optim.muon_normalize": ranges.switch,
    "optim.lookahead_steps": ranges.whole(0),
    "optim.lookahead_alpha": ranges.share_above_0,
    "optim.lookahead_power": ranges.at_least(0),
    "optim.groups": ranges.each(ranges.Check("a group", _is_group), _GROUPS),
    "train.ema_decay": ranges.rate,
    "train.ema_warmup": ranges.one_of(EMA_WARMUPS),
    "schedule.name": ranges.one_of(SCHEDULES),
    "schedule.unit": ranges.one_of(("step", "epoch")),
    "schedule.length_epochs": ranges.at_least(0),
    "schedule.warmup_epochs": ranges.at_least(0),
    "schedule.warmup_factor": ranges.share,
    "schedule.cooldown_epochs": ranges.at_least(0),
    "schedule.stop_epochs": ranges.at_least(0),
    "schedule.final_factor": ranges.share,
    "schedule.pct_start": ranges.share,
    "schedule.div_factor": ranges.above(0),
    "schedule.final_div_factor": ranges.above(0),
    "schedule.cycle_momentum": ranges.switch,
    "schedule.base_momentum": ranges.rate,
    "schedule.max_momentum": ranges.rate,
}


def _span(check: ranges.Check, expected: str, empty: bool = False) -> ranges.Check:
    """Two numbers, the least and the largest; or, where that may be, none."""

    def holds(value):
        if value == () and empty:
            return True
        pair = isinstance(value, tuple) and len(value) == 2 and all(map(check.holds, value))
        return pair and value[0] <= value[1]

    return ranges.Check(expected, holds)


def _is_jitter(value: object) -> bool:
    positive, names = ranges.at_least(0).holds, isinstance(value, tuple) and len(value)
    return value == () or (names == 4 and all(map(positive, value)) and value[3] <= 0.5)


def _is_policy(value: object) -> bool:
    return value == "" or policy_names.parse(value) is not None


_AUGMENT = {
    "augment.crop_size": ranges.whole(0, 4096, "pixels (0: the whole image)"),
    "augment.random_resized_crop": _span(
        ranges.share_above_0,
        "the least and the largest share of an image's area, above 0 up to 1, such as 0.08,1.0; "
        "or () for no such crop",
        empty=True,
    ),
    "augment.aspect_ratio": _span(
        ranges.above(0), "the least and the largest ratio, above 0, of width to height: 0.75,1.33"
    ),
    "augment.interpolation": ranges.optional(ranges.one_of(INTERPOLATIONS)),
    "augment.color_jitter": ranges.Check(
        "four numbers of at least 0: brightness, contrast, saturation, and hue up to 0.5, such as "
        "0.4,0.4,0.4,0.1; or () for none",
        _is_jitter,
    ),
    "augment.resize": ranges.whole(0, 4096, "pixels (0: no resizing)"),
    "augment.rotate_degrees": ranges.between(0, 180, "the largest angle in degrees"),
    "augment.crop_padding": ranges.whole(0, 4096, "pixels (0: no crop)"),
    "augment.crop_probability": ranges.share,
    "augment.crop_mode": ranges.one_of(("zero", "reflect")),
    "augment.flip": ranges.switch,
    "augment.flip_mode": ranges.one_of(("random", "alternating")),
    "augment.auto_augment": ranges.Check(policy_names.EXPECTED, _is_policy),
    "augment.erase_probability": ranges.share,
    "augment.erase_area": _span(
        ranges.share_above_0,
        "the least and the largest share of an image's area, above 0 up to 1, such as 0.02,0.33",
    ),
    "augment.erase_aspect": _span(
        ranges.above(0), "the least and the largest ratio, above 0, of height to width: 0.3,3.3"
    ),
    "augment.erase_mode": ranges.one_of(("const", "rand", "pixel")),
    "augment.cutout": ranges.whole(0, 4096, "pixels (0: none)"),
    "augment.mixup": ranges.at_least(0),
    "augment.cutmix": ranges.at_least(0),
    "augment.mix_probability": ranges.share,
    "augment.mix_switch": ranges.share,
    "augment.mix_mode": ranges.one_of(("batch", "pair", "elem")),
    "augment.mix_off_epoch": ranges.whole(0, what="a whole number of epochs"),
    "augment.repeats": ranges.whole(1),
    "data.mean": _of_channels(ranges.share, "from 0 to", "mean"),
    "data.std": _of_channels(ranges.share_above_0, "above 0 up to", "std"),
}
_PARALLEL = {
    "parallel": ranges.one_of(("jit", "pmap")),
    "mesh.data": ranges.whole(0),
    "mesh.fsdp": ranges.whole(1),
    "train.batch_size": ranges.whole(1),
    "train.accumulate_steps": ranges.whole(1),
}
_TEXT = ranges.Check("text", lambda value: isinstance(value, str) and bool(value))
_SIZE, _SIZES = ranges.optional(ranges.whole(1)), "whole numbers of at least 1, such as 64,128"
_RATE, _SWITCH = ranges.optional(ranges.rate), ranges.optional(ranges.switch)
_MODELS = {
    "compare": ranges.each(ranges.text, "quoted names of models, such as 'vit','simple_cnn'"),
    "model.name": ranges.text,
    "model.init_from": ranges.optional(
        _TEXT._replace(expected="a folder or file of weights, a run folder, or hf:ORG/NAME")
    ),
    "model.init_revision": ranges.optional(_TEXT),
    "model.init_sha256": ranges.optional(
        ranges.Check(
            "a SHA-256, 64 digits from 0 to f",
            lambda value: isinstance(value, str) and bool(re.fullmatch("[0-9a-f]{64}", value)),
        )
    ),
    "model.init_images": ranges.whole(0),
    **dict.fromkeys(("model.img_size", "model.in_channels", "model.num_classes"), _SIZE),
    **dict.fromkeys(("model.patch_size", "model.embed_dim", "model.depth"), _SIZE),
    **dict.fromkeys(("model.num_heads", "model.mlp_dim"), _SIZE),
    **dict.fromkeys(("model.conv_layers", "model.conv_size"), _SIZE),
    **dict.fromkeys(("model.dropout", "model.attention_dropout", "model.drop_path"), _RATE),
    "model.positions": ranges.optional(ranges.one_of(POSITIONS)),
    **dict.fromkeys(("model.norm_eps", "model.head_norm_eps"), ranges.optional(ranges.above(0))),
    **dict.fromkeys(("model.class_token", "model.distilled", "model.cover_prefix"), _SWITCH),
    **dict.fromkeys(("model.swiglu", "model.fc_norm"), _SWITCH),
    "model.registers": _SIZE,
    "model.layer_scale": ranges.optional(ranges.above(0)),
    "model.pool": ranges.optional(ranges.one_of(POOLS)),
    "model.widths": ranges.optional(ranges.each(ranges.whole(1), _SIZES)),
    "model.depths": ranges.optional(ranges.each(ranges.whole(1), _SIZES)),
    "model.stem": ranges.optional(ranges.one_of(("imagenet", "cifar"))),
    "model.block": ranges.optional(ranges.one_of(("basic", "bottleneck"))),
    "model.norm_momentum": ranges.optional(ranges.share_above_0),
    "model.head_scale": ranges.optional(ranges.above(0)),
    "model.unit_head": _SWITCH,
    "model.head_dims": ranges.optional(ranges.each(ranges.whole(1), _SIZES)),
    "model.head_dropout": _RATE,
    "model.lora_rank": _SIZE,
    "model.lora_alpha": ranges.optional(ranges.above(0)),
    "model.lora_targets": ranges.optional(_REGEX),
    "model.remat": ranges.switch,
    "model.scan_layers": ranges.switch,
}
# Fields of `config.optim` that a group may have of its own, as it may all of `config.schedule`.
_OF_GROUP = ("name", "learning_rate", "weight_decay", "beta1", "beta2", "eps", "momentum")
_OF_GROUP += ("nesterov", "always_adapt", "muon_steps", "muon_scale", "muon_normalize")
CHECKS = _RECIPE | _OPTIM | _AUGMENT | _PARALLEL | _MODELS


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
    """Refuse two averages of the weights at once."""
    optim, decay = config.optim, config.train.ema_decay
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
