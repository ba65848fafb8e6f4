"""The split syntax of TFDS: which examples 'train[:90%]' means."""

from __future__ import annotations

from types import SimpleNamespace

from jax_train.data.source import Source
from jax_train.errors import UserError

SYNTAX = "'train', 'train[:90%]', 'train[1000:2000]', 'train[-100:]' or 'train+test'"


def is_split(text: object) -> bool:
    """Whether a text is in the syntax, whatever the data set."""
    if not isinstance(text, str) or text.isidentifier():  # TFDS takes half a second to import
        return isinstance(text, str)
    from tensorflow_datasets.core.splits import ReadInstruction

    try:
        return bool(ReadInstruction.from_spec(text))
    except Exception:  # TFDS raises many kinds for the one cause: a bad spec
        return False


def resolve_split(split: str, source: Source) -> tuple[tuple[str, int, int], ...]:
    """Return the ranges (base split, start, stop) that a split in TFDS's syntax means.

    Raises:
      UserError: the syntax is wrong, a base split is unknown, or no example is left.
    """
    if split in source.splits:  # without importing TFDS, which takes longer than the reading
        return ((split, 0, sum(source.splits[split])),)
    held = ", ".join(f"{base} ({sum(shards):,})" for base, shards in source.splits.items())
    help_text = f"The splits of {source.name} and their sizes are: {held}. Write {SYNTAX}."
    if not isinstance(split, str) or not split.strip():
        raise UserError(f"The split {split!r} of {source.name} is empty. {help_text}")
    from tensorflow_datasets.core.splits import ReadInstruction

    infos = {
        base: SimpleNamespace(num_examples=sum(shards), shard_lengths=list(shards))
        for base, shards in source.splits.items()
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
