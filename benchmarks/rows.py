"""Rows of figures: as a run prints them, and as docs/performance.md keeps them by processor.

Of each kind of processor the newest figures lie in `records/`, a file for each part.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import machine, race
from jax_train.files import json_text, write_atomically
from jax_train.printing import counted, significant

RECORDS = Path(__file__).parent / "records"
STEADY = 0.1  # the largest spread of a row that something can be concluded from
JAX = "JAX"


@dataclass(frozen=True)
class Row:
    """Figures of the same work, done by several sides.

    Attributes:
      case: the model, as it is called in the tables.
      batch: images in a batch.
      figures: by side, JAX first; images per second, or megabytes.
      spread: the largest of the sides; None where there is none.
      what: the work, in tables of several kinds.
      dtype: of the computation.
      samples: of each side; 0 where it is not known.
      again: samples that other programs disturbed, so that they were taken again.
      in_vain: those of them that were kept in the end.
      slower: samples of a side that was slower than before it waited.
    """

    case: str
    batch: int
    figures: dict[str, float]
    spread: float | None = None
    what: str = ""
    dtype: str = "float32"
    samples: int = 0
    again: int = 0
    in_vain: int = 0
    slower: int = 0

    @property
    def key(self) -> tuple:
        """What makes a row of two machines the same row."""
        return self.case, self.batch, self.what, self.dtype

    @property
    def others(self) -> float:
        """The largest figure beside JAX's."""
        return max(value for name, value in self.figures.items() if name != JAX)

    @property
    def ratio(self) -> float:
        """JAX's figure to the largest of the others."""
        return self.figures[JAX] / self.others

    @property
    def is_steady(self) -> bool:
        """Whether something can be concluded from it."""
        return self.spread is None or self.spread <= STEADY

    def verdict(self) -> str:
        """The ratio and the spread, marked where they are not to be used."""
        ratio = f"**{self.ratio:.2f}**" if self.is_steady else f"{self.ratio:.2f}"
        spread = "" if self.spread is None else f" ±{self.spread:.0%}"
        return f"{ratio}{spread}{'' if self.is_steady else ', not to be used'}"


def of_race(got: dict[str, race.Samples], **fields) -> Row:
    """The row of a race's samples; `fields` are the others of `Row`."""
    sides = got.values()
    spreads = [samples.spread for samples in sides if samples.spread is not None]
    figures = {name: round(samples.median, 2) for name, samples in got.items()}
    fields |= {"spread": round(max(spreads), 4) if spreads else None}
    fields |= {"samples": max(len(samples.speeds) for samples in sides)}
    fields |= {"again": sum(samples.disturbed for samples in sides)}
    fields |= {"in_vain": sum(samples.kept_disturbed for samples in sides)}
    fields |= {"slower": sum(samples.unsettled for samples in sides)}
    return Row(figures=figures, **fields)


def header(sides: Iterable[str], what: bool = False) -> list[str]:
    """The first two lines of a table of one run."""
    names = ["model", "batch", *["what"] * what, "dtype", *sides, f"{JAX} / best"]
    return [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]


def line(row: Row, sides: Iterable[str]) -> str:
    """A row of that table, the sides in that order."""
    cells = [significant(row.figures[name], 3) if name in row.figures else "–" for name in sides]
    return f"| {' | '.join([*_labels(row), *cells, row.verdict()])} |"


def _labels(row: Row) -> list[str]:
    return [f"`{row.case}`", str(row.batch), *([row.what] if row.what else []), row.dtype]


def told(rows: Sequence[Row]) -> str:
    """How many samples there are of each side, and what happened to them; "" if it is not known."""
    counts = [row.samples for row in rows if row.samples]
    if not counts:
        return ""
    again, kept, slower = (
        sum(getattr(row, name) for row in rows) for name in ("again", "in_vain", "slower")
    )
    least = f"{min(counts)} to " if min(counts) < max(counts) else ""
    text = f"{least}{counted(max(counts), 'sample')} of each, {again} disturbed by other programs"
    text += f" and taken again{f', {kept} of them in vain' if kept else ''}"
    return f"{text}; {slower} at less than the pace before." if slower else f"{text}."


def keep(part: str, machine_: dict, rows: list[Row], note: str) -> None:
    """File the rows of a part that was run on a machine.

    Rows that the run did not measure stay if they are of the same versions. What is there of
    another kind of processor stays in any case.
    """
    found = read(part)
    known = {row.key: row for row in rows}
    place = len(found)
    for number, (other, old, _) in enumerate(found):
        if machine.is_same_kind(machine_, other):
            place = number
            if other["versions"] == machine_["versions"]:
                known = {row.key: row for row in old} | known
    found[place : place + 1] = [(machine_, list(known.values()), note)]
    entries = [
        {"machine": one, "note": note, "rows": [asdict(row) for row in rows]}
        for one, rows, note in found
    ]
    RECORDS.mkdir(exist_ok=True)
    write_atomically(_file(part), json_text(entries, indent=1, ensure_ascii=False) + "\n")


def read(part: str) -> list[tuple[dict, list[Row], str]]:
    """Of each kind of processor the machine, its rows, and what is told of them."""
    if not _file(part).exists():
        return []
    entries = json.loads(_file(part).read_text())
    return [(one["machine"], [Row(**row) for row in one["rows"]], one["note"]) for one in entries]


def _file(part: str) -> Path:
    return RECORDS / f"{part}.json"


def page(part: str) -> str:
    """The table of a part in the documentation: a column for each kind of processor."""
    found = read(part)
    keys = list(dict.fromkeys(row.key for _, rows, _ in found for row in rows))
    by_machine = [{row.key: row for row in rows} for _, rows, _ in found]
    what = any(key[2] for key in keys)
    names = ["model", "batch", *["what"] * what, "dtype"]
    names += [machine.title(one) for one, _, _ in found]
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for key in keys:
        first = next(rows[key] for rows in by_machine if key in rows)
        cells = [_cell(rows.get(key)) for rows in by_machine]
        lines.append(f"| {' | '.join([*_labels(first), *cells])} |")
    return "\n".join([*lines, "", *_below(found)])


def _cell(row: Row | None) -> str:
    if row is None:
        return "–"
    ours, best = (significant(value, 3) for value in (row.figures[JAX], row.others))
    return f"{row.verdict()} ({ours} / {best})"


def _below(found: list[tuple[dict, list[Row], str]]) -> Iterator[str]:
    for one, rows, note in found:
        yield " ".join(filter(None, (f"- {machine.text(one)}.", told(rows), note)))
