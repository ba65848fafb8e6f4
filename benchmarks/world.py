"""Beside timm and torchvision themselves: their models at the size of the pretrained weights."""

from importlib import metadata

from benchmarks import race, rows
from jax_train.printing import say
from tests.parity.measure import ROOT

# Where `make parity-world` puts the libraries; without them their models' mirrors are timed.
WORLD = ROOT / ".venv-world"
BATCHES = (1, 8, 32)
TASKS = {"eval": "inference", "train": "training step"}
_SIDES = ("JAX", "PyTorch", "compiled")


def table(cases: list[str], rounds: int, changes: dict) -> tuple[str, list[rows.Row], str]:
    """Images per second of each side, and the ratio to the fastest PyTorch: text, rows and a note.

    Args:
      cases: of `tasks.PUBLISHED`.
      rounds: samples of each side.
      changes: to each job (see `child.py`); a size of batches among them is the only one.
    """
    lines, found, all_samples = rows.header(_SIDES, what=True), [], []
    fixed = changes.get("changes", {}).get("train.batch_size")
    kinds = [(b, t) for b in ((fixed,) if fixed else BATCHES) for t in TASKS]
    sizes = [
        {"task": task, "changes": {"train.batch_size": b, "eval.batch_size": b}}
        for b, task in kinds
    ]
    for case in cases:
        jobs = {name: {"case": case, "published": True} | _side(name) | changes for name in _SIDES}
        for (batch, task), got in zip(kinds, race.races(jobs, rounds, sizes), strict=True):
            found.append(rows.of_race(got, case=case, batch=batch, what=TASKS[task]))
            lines.append(rows.line(found[-1], _SIDES))
            say(lines[-1])
            all_samples += got.values()
    note = f"{rows.told(all_samples, rounds)} {_told(changes)}"
    return "\n".join([*lines, "", note]), found, note


def _side(name: str) -> dict:
    if name == "JAX":
        return {"side": "jax"}
    library = _is_at_hand()
    options = {"compiled": name == "compiled", "library": library}
    python = {"python": str(WORLD / "bin" / "python")} if library else {}
    return {"side": "torch", "options": options, **python}


def _is_at_hand() -> bool:
    return (WORLD / ".installed").exists()


def _told(changes: dict) -> str:
    counted = ", of one core's time" if changes.get("one_core") else ""
    if not _is_at_hand():
        mirror = "PyTorch is the mirror in `torch_ref/`: timm is not at hand (`make parity-world`)."
        return f"Images per second{counted}. {mirror}"
    path = [str(folder) for folder in WORLD.glob("lib/*/site-packages")]
    found = {d.name: d.version for d in metadata.distributions(path=path)}
    named = ", ".join(f"{name} {found[name]}" for name in ("torch", "torchvision", "timm"))
    whose = "PyTorch is timm's model, of ResNets torchvision's"
    return f"Images per second{counted}. {whose}: {named}."
