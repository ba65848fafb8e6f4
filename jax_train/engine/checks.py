"""What the fields may hold that the engine reads, as far as can be told without JAX.

Importing JAX takes a second, and a mistyped number is to be refused sooner. What needs devices or
models is checked in `parallel` and `models`.
"""

import re
from collections.abc import Sequence

from ml_collections import ConfigDict

from jax_train.config import ranges
from jax_train.data.split import AUTO
from jax_train.printing import counted

OPTIMIZERS = ("adamw", "adam", "sgd")  # the keys of `optim.OPTIMIZERS`
BALANCED = ("balanced",)  # of config.train.class_weights
INTERPOLATIONS = ("bilinear", "bicubic")  # the keys of `resample.KERNELS`
POOLS = ("token", "avg", "token_and_avg")  # of `jax_models.tokens`
SCHEDULES = ("cosine", "onecycle", "constant")  # the keys of `optim.SCHEDULES`


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
    "train.label_smoothing": ranges.rate,
    "train.class_weights": ranges.optional(ranges.Check(_WEIGHTS, _are_weights)),
    "train.on_nonfinite": ranges.one_of(("stop", "skip")),
}
_REGEXES = "valid regexes, quoted and separated by commas: 'bias$','norm'"
_REGEX = ranges.each(ranges.Check("a regex", _compiles), _REGEXES)
_SCALES = "pairs of a valid regex and a factor of at least 0: ('bias$', 2.0), ('^head', 10.0)"
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
    "schedule.name": ranges.one_of(SCHEDULES),
    "schedule.unit": ranges.one_of(("step", "epoch")),
    "schedule.warmup_epochs": ranges.at_least(0),
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
    "augment.flip": ranges.switch,
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
    **dict.fromkeys(("model.dropout", "model.drop_path"), _RATE),
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
CHECKS = _RECIPE | _OPTIM | _AUGMENT | _PARALLEL | _MODELS


def check(config: ConfigDict) -> None:
    """Check what has to go together in the recipe of model, optimizer and augmentation.

    Raises:
      UserError: names the field, its value and what was expected.
    """
    _check_source(config)
    _check_schedule(config)
    probe, epochs = config.train.probe_epochs, config.train.epochs
    if probe >= epochs:
        expected = f"a whole number from 0 up to but not including config.train.epochs={epochs}"
        raise ranges.refusal("train.probe_epochs", probe, expected)
    weights, classes = config.train.class_weights, config.model.num_classes
    if weights not in (None, BALANCED) and classes not in (None, len(weights)):
        expected = f"a weight for each of {counted(classes, 'class', 'classes')}, or 'balanced'"
        raise ranges.refusal("train.class_weights", weights, expected)
    check_lengths(config.data.mean, config.data.std)
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


def _check_schedule(config: ConfigDict) -> None:
    schedule, optim, epochs = config.schedule, config.optim, config.train.epochs
    cycles = schedule.name == "onecycle" and schedule.cycle_momentum
    warmup, warmup_field = schedule.warmup_epochs, "schedule.warmup_epochs"
    if schedule.name == "onecycle" and schedule.unit == "epoch":
        expected = "'step', because onecycle changes the rate every step"
        raise ranges.refusal("schedule.unit", schedule.unit, expected)
    if schedule.name == "onecycle" and warmup > 0:
        expected = "0.0 with onecycle, which has a warm-up of its own: config.schedule.pct_start"
        raise ranges.refusal(warmup_field, warmup, expected, f"Add --config.{warmup_field}=0.")
    if warmup >= epochs:  # a recipe's warm-up is too long for a short run
        expected = f"a number from 0 up to but not including config.train.epochs={epochs}"
        cure = f"Add --config.{warmup_field}={min(1, epochs - 1)} to the command."
        raise ranges.refusal(warmup_field, warmup, expected, cure)
    if schedule.base_momentum > schedule.max_momentum:
        expected = f"at most config.schedule.max_momentum={schedule.max_momentum}"
        raise ranges.refusal("schedule.base_momentum", schedule.base_momentum, expected)
    if optim.name == "sgd" and optim.nesterov and not (optim.momentum > 0 or cycles):
        expected = "False without momentum: see config.optim.momentum"
        raise ranges.refusal("optim.nesterov", optim.nesterov, expected)


def check_lengths(mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
    """Raise a UserError where mean and std are of different numbers of channels."""
    if mean is not None and std is not None and len(mean) != len(std):
        expected = f"{counted(len(mean), 'number')}, as in config.data.mean={mean}"
        raise ranges.refusal("data.std", std, expected)


def output_size(config: ConfigDict, height: int, width: int) -> tuple[int, int]:
    """Height and width, in pixels, of what the model gets from images of `height` x `width`.

    Args:
      config: the `augment` part of the config.

    Raises:
      UserError: the crop is larger than the image, or its padding is not smaller than that.
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
    return size
