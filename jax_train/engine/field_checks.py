"""What each field may hold that the engine reads, as far as can be told without JAX.

Importing JAX takes a second, and a mistyped number is to be refused sooner. What has to go together
is in `checks`; what needs devices or models is checked in `parallel` and `models`.
"""

import re
from collections.abc import Mapping

from jax_train.config import ranges
from jax_train.engine import policy_names

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
CHECKS = _RECIPE | _OPTIM | _AUGMENT | _PARALLEL | _MODELS
