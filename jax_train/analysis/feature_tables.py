"""Features in Apache Parquet: a row an image, for pandas, DuckDB, Spark and others."""

import json
import os
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from jax_train.errors import UserError
from jax_train.printing import readable

_ROWS = 4096  # read and written at once
_ARRAYS = "jax-vit-cnn"  # key of the metadata with what belongs to all rows


def library():
    """The library pyarrow.

    Raises:
      UserError: it is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(
            "Files of features that end in .parquet need the library pyarrow: pip install pyarrow, "
            "or choose a name that ends in .npz."
        ) from error
    return pyarrow


def write(file: BinaryIO, names, labels, more: dict, blocks: Iterator[np.ndarray]) -> None:
    """Write features; those of all images need not be in memory.

    Columns are `name`, `features` (lists of numbers of one length, tokens and maps row by row) and,
    where labels are known, `label` and `class_name`. Names that are no text are spelled out.

    Args:
      file: to write into.
      names: of N images.
      labels: int32 [N]; None where they are not known.
      more: texts about them, `class_names` and `shape`, of the features of an image.
      blocks: the features, [n,…] each, in all [N,…].
    """
    arrow = library()
    first, total = 0, int(np.prod(more["shape"]))
    writer = None
    for block in blocks:
        here = slice(first, first + len(block))
        flat = arrow.array(block.reshape(-1))
        columns = {
            "name": arrow.array([readable(name) for name in names[here]]),
            "features": arrow.FixedSizeListArray.from_arrays(flat, total),
        }
        if labels is not None:
            of_rows = [readable(more["class_names"][label]) for label in labels[here]]
            columns |= {"label": arrow.array(labels[here]), "class_name": arrow.array(of_rows)}
        metadata = {_ARRAYS: json.dumps(more)}
        table = arrow.table(columns).replace_schema_metadata(metadata)
        writer = writer or arrow.parquet.ParquetWriter(file, table.schema)
        writer.write_table(table)
        first += len(block)
    writer.close()


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays of a file, by the names that they have in an .npz file.

    Raises:
      Exception: of many kinds, where it is damaged or no such file.
    """
    table = library().parquet.read_table(path)
    more = json.loads(table.schema.metadata[_ARRAYS.encode()])
    flat = table["features"].combine_chunks().flatten().to_numpy()
    arrays = {
        "features": flat.reshape(len(table), *more.pop("shape")),
        "names": np.array(table["name"].to_pylist(), str),
    }
    classes = np.array(more.pop("class_names"), str)
    if "label" in table.column_names:
        arrays |= {"labels": table["label"].to_numpy(), "class_names": classes}
    return arrays | {name: np.array(text, str) for name, text in more.items()}


def blocks(features: np.ndarray) -> Iterator[np.ndarray]:
    """Parts [n,…] of features [N,…] on disk."""
    for start in range(0, len(features), _ROWS):
        yield np.asarray(features[start : start + _ROWS])
