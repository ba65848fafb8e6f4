"""Which examples a split means: TFDS's syntax, slices by class, and the splits of a run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace

import numpy as np

from jax_train.data.source import Source
from jax_train.errors import UserError

SYNTAX = "'train', 'train[:90%]', 'train[1000:2000]', 'train[-100:]' or 'train+test'"
AUTO = "auto"  # in a run's config: what `automatic` makes of the data
_BY_CLASS = re.compile(r"(\w+)\[(?:(\d{1,3})%)?:(?:(\d{1,3})%)?\] by class")
_FEW = 5  # images of the largest class, up to which a fifth is held out instead of a tenth


def is_split(text: object) -> bool:
    """Whether a text is in the syntax, whatever the data set."""
    if not isinstance(text, str) or text.isidentifier():  # TFDS takes half a second to import
        return isinstance(text, str)
    if _BY_CLASS.fullmatch(text):
        return True
    from tensorflow_datasets.core.splits import ReadInstruction

    try:
        return bool(ReadInstruction.from_spec(text))
    except Exception:  # TFDS raises many kinds for the one cause: a bad spec
        return False


def automatic(source: Source, wanted: Mapping[str, str]) -> dict[str, str]:
    """Return the splits of a run, with a text for each that is `AUTO`.

    These are the data's own splits. A missing validation or test split is a tenth of train (of
    classes of five images or less a fifth), cut from each class alike where the labels are known.

    Args:
      source: the data.
      wanted: 'train', 'val' and 'test' -> what the config says.
    """
    splits = {name: name if text == AUTO else text for name, text in wanted.items()}
    own = {*source.splits, *source.aliases}
    cut = [name for name in ("val", "test") if wanted[name] == AUTO and name not in own]
    by_class, share = "", 10
    if source.labels and cut:
        if "train" not in source.splits:
            raise UserError(
                f"{source.name} has no split train to train on. {_help(source)} Name the splits "
                "with config.data.train_split, val_split and test_split."
            )
        largest = np.bincount(source.labels("train")).max()
        by_class, share = " by class", 20 if largest <= _FEW else 10
        if largest <= len(cut) > 1:  # too few for both
            cut, splits["val"] = cut[1:], ""
    for place, name in enumerate(cut):
        start, stop = (100 - share * (len(cut) - place - more) for more in (0, 1))
        splits[name] = f"train[{start}%:{f'{stop}%' * (stop < 100)}]{by_class}"
    if cut and wanted["train"] == AUTO:
        splits["train"] = f"train[:{100 - share * len(cut)}%]{by_class}"
    return splits


def with_view(split: str, source: Source) -> Source:
    """Return the source with one split more, if the split is a slice by class.

    'train[80%:90%] by class' is what stands from 80 % up to 90 % of each class, in the order of
    'train'; the bounds are rounded down, but to 1 at least.

    Raises:
      UserError: the slice is none, or the labels are not known beforehand.
    """
    match = _BY_CLASS.fullmatch(split) if isinstance(split, str) else None
    if match is None or split in source.splits:
        return source
    base, start, stop = match[1], int(match[2] or 0), int(match[3] or 100)
    base = source.aliases.get(base, base)
    if source.labels is None or base not in source.splits or not start < stop <= 100:
        raise UserError(
            f"The split {split!r} of {source.name} cannot be read. {_help(source)} Slices by "
            "class, such as 'train[80%:90%] by class', are for data of folders."
        )
    labels = source.labels(base)
    parts = []
    for label in np.unique(labels):
        of_class = np.flatnonzero(labels == label)
        bounds = (_bound(percent, len(of_class)) for percent in (start, stop))
        parts.append(of_class[slice(*bounds)])
    index = np.sort(np.concatenate(parts))
    splits = source.splits | {split: (len(index),)}
    return replace(source, splits=splits, views={**source.views, split: (base, index)})


def _bound(percent: int, count: int) -> int:
    return min(count, max(1, count * percent // 100)) if percent else 0


def resolve_split(split: str, source: Source) -> tuple[tuple[str, int, int], ...]:
    """Return the ranges (base split, start, stop) that a split in TFDS's syntax means.

    Raises:
      UserError: the syntax is wrong, a base split is unknown, or no example is left.
    """
    if isinstance(split, str) and split not in source.splits:
        known = source.aliases
        split = re.sub(r"[^\W\d]\w*", lambda word: known.get(word[0], word[0]), split)
    for name, why in source.absent.items():
        if isinstance(split, str) and re.search(rf"\b{name}\b", split):
            raise UserError(
                f"{source.name} has no split {name}: its folder is not used, because {why}. "
                f"{_help(source)}"
            )
    if split in source.splits:  # without importing TFDS, which takes longer than the reading
        if not sum(source.splits[split]):
            raise UserError(f"The split {split!r} of {source.name} holds no example.")
        return ((split, 0, sum(source.splits[split])),)
    help_text = _help(source)
    if not isinstance(split, str) or not split.strip():
        raise UserError(f"The split {split!r} of {source.name} is empty. {help_text}")
    from tensorflow_datasets.core.splits import ReadInstruction

    infos = {
        base: SimpleNamespace(num_examples=sum(shards), shard_lengths=list(shards))
        for base, shards in source.splits.items()
        if base not in source.views
    }
    try:
        parts = ReadInstruction.from_spec(split).to_absolute(infos)
    except Exception as error:  # TFDS raises many kinds for the one cause: a bad spec
        cause = (str(error).strip() or type(error).__name__).splitlines()[-1]
        cause = cause.split(" See format at")[0].rstrip(".")  # without the links of TFDS
        raise UserError(
            f"The split {split!r} of {source.name} cannot be read: {cause}. {help_text}"
        ) from error
    ranges = []
    for part in parts:
        start = part.from_ or 0
        stop = infos[part.splitname].num_examples if part.to is None else part.to
        if stop > start:
            ranges.append((part.splitname, start, stop))
    if not ranges:
        raise UserError(f"The split {split!r} of {source.name} holds no example. {help_text}")
    return tuple(ranges)


def _help(source: Source) -> str:
    sizes = {base: n for base, n in source.splits.items() if base not in source.views}
    held = ", ".join(f"{base} ({sum(shards):,})" for base, shards in sizes.items())
    auto = "; in a run's config also 'auto'" if source.labels else ""
    return f"The splits of {source.name} and their sizes are: {held}. Write {SYNTAX}{auto}."
