"""Beside timm and torchvision themselves: their models at the size of the pretrained weights."""

from collections.abc import Iterator
from importlib import metadata

from benchmarks import race, rows
from tests.parity.measure import ROOT

# Where `make parity-world` puts the libraries; without them their models' mirrors are timed.
WORLD = ROOT / ".venv-world"
BATCHES = (1, 8, 32)
TASKS = {"eval": "inference", "train": "training step"}
SIDES = ("JAX", "PyTorch", "compiled")


def rows_of(cases: list[str], rounds: int, changes: dict) -> Iterator[rows.Row]:
    """Images per second of each side.

    Args:
      cases: of `tasks.PUBLISHED`.
      rounds: samples of each side.
      changes: to each job (see `child.py`); a size of batches among them is the only one.
    """
    fixed = changes.get("changes", {}).get("train.batch_size")
    kinds = [(b, t) for b in ((fixed,) if fixed else BATCHES) for t in TASKS]
    sizes = [
        {"task": task, "changes": {"train.batch_size": b, "eval.batch_size": b}}
        for b, task in kinds
    ]
    for case in cases:
        jobs = {name: {"case": case, "published": True} | _side(name) | changes for name in SIDES}
        with race.left_out(case):
            for (batch, task), got in zip(kinds, race.races(jobs, rounds, sizes), strict=True):
                yield rows.of_race(got, case=case, batch=batch, what=TASKS[task])


def _side(name: str) -> dict:
    if name == "JAX":
        return {"side": "jax"}
    library = _is_at_hand()
    options = {"compiled": name == "compiled", "library": library}
    python = {"python": str(WORLD / "bin" / "python")} if library else {}
    return {"side": "torch", "options": options, **python}


def _is_at_hand() -> bool:
    return (WORLD / ".installed").exists()


def note(changes: dict) -> str:
    """What PyTorch's side is, and how the time is counted."""
    counted = ", of one core's time" if changes.get("one_core") else ""
    if not _is_at_hand():
        mirror = "PyTorch is the mirror in `torch_ref/`: timm is not at hand (`make parity-world`)."
        return f"Images per second{counted}. {mirror}"
    path = [str(folder) for folder in WORLD.glob("lib/*/site-packages")]
    found = {d.name: d.version for d in metadata.distributions(path=path)}
    named = ", ".join(f"{name} {found[name]}" for name in ("torch", "torchvision", "timm"))
    whose = "PyTorch is timm's model, of ResNets torchvision's"
    return f"Images per second{counted}. {whose}: {named}."
