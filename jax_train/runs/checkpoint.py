"""Checkpoints of a run: the two newest, and the best one by validation.

Orbax writes a checkpoint under a temporary name and renames it when it is complete. It restores
flipped bytes without a word, so every array has a checksum of ours, committed with the step.
"""

import contextlib
import logging
import math
import os
import shutil
import sys
import threading
import warnings
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as policy

from jax_train.engine.state import Progress, leaf_paths
from jax_train.errors import UserError
from jax_train.machine import processes
from jax_train.runs.checksums import _checksums, _crc, _record_is_whole, read_record

_KEPT = 2  # newest ones: the last may be damaged
# Old checkpoints are renamed into this folder first, so that a kill leaves none half deleted.
_DELETED = ".deleted"
# A failed write is raised, and told once, by `Checkpoints`; these would add tracebacks.
_NOISY_LOGGERS = ("absl", "asyncio")


NEVER_BEST = -1.0  # below all ranks of figures that are numbers


def rank(figures: dict[str, float]) -> float:
    """Order by validation top-1; figures that are no numbers are never best."""
    return figures["top1"] if math.isfinite(figures["loss"]) else NEVER_BEST


class Damaged(Exception):
    """A checkpoint that is not what was saved; says why."""


def _hush_closed_loops() -> None:
    """Keep quiet about reads and writes of Orbax that end after a failure that was told.

    They end in threads of TensorStore's, which print what is raised there.
    """
    if getattr(sys.excepthook, "hushes", False):
        return
    printing, unraisable = sys.excepthook, sys.unraisablehook

    def is_late(error) -> bool:
        elsewhere = threading.current_thread() is not threading.main_thread()
        return elsewhere and ("Event loop is closed" in f"{error}" or "TensorStore" in f"{error}")

    def on_exception(kind, error, traceback):
        if not is_late(error):
            printing(kind, error, traceback)

    def on_unraisable(facts):
        if not is_late(facts.exc_value):
            unraisable(facts)

    # Writes that a full disk kept from beginning.
    warnings.filterwarnings("ignore", r"coroutine .* was never awaited", RuntimeWarning)
    on_exception.hushes = True
    sys.excepthook, sys.unraisablehook = on_exception, on_unraisable


def _in_utf8(folder: Path) -> Path:
    """A path of a folder that TensorStore takes, which knows names in UTF-8 alone."""
    try:
        str(folder).encode()
        return folder
    except UnicodeEncodeError:
        folder.mkdir(parents=True, exist_ok=True)
        return Path(f"/proc/self/fd/{os.open(folder, os.O_RDONLY)}")  # where the system has it


def _tree(progress: Progress) -> dict:
    """What is saved, or asked for: the parts that there are, by name.

    A part that is None has no place in the tree, as in checkpoints of versions without the part.
    """
    state = {name: part for name, part in progress.state._asdict().items() if part is not None}
    return {"state": state} | ({} if progress.sums is None else {"sums": progress.sums})


def _request(like: Progress):
    """What Orbax is asked for: everything, or what `like` has of the state."""
    item = _tree(like)
    if like.sums is not None:
        return ocp.args.StandardRestore(item)
    how = ocp.checkpoint_utils.construct_restore_args(item)
    return ocp.args.PyTreeRestore(item, restore_args=how, partial_restore=True)


def _shapes(like: Progress) -> dict[str, str]:
    """Shape and dtype of each array by its path, such as {'state.step': 'int32[]'}."""
    leaves = zip(leaf_paths(like), jax.tree.leaves(like), strict=True)
    return {path: f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves}


class Checkpoints:
    """The folder `checkpoints/` of a run, one subfolder per step.

    Args:
      folder: created when missing; leave the `with` block to finish writing.
      tell: called with a line about each damaged checkpoint.
      read_only: change nothing; a damaged checkpoint is then an error.
      cure: what to do about that error.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        tell=lambda line: None,
        *,
        read_only: bool = False,
        cure: str = "",
    ):
        _hush_closed_loops()
        for name in _NOISY_LOGGERS:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self.folder, self._tell, self._cure = Path(folder).absolute(), tell, cure
        self._read_only = read_only
        best = policy.BestN(get_metric_fn=rank, n=1, keep_checkpoints_without_metrics=False)
        options = ocp.CheckpointManagerOptions(
            best_fn=rank,
            best_mode="max",
            preservation_policy=policy.AnyPreservationPolicy([policy.LatestN(_KEPT), best]),
            cleanup_tmp_directories=not read_only,
            todelete_subdir=_DELETED,
            read_only=read_only,
        )
        self._check_records()
        with self._told():
            self._manager = ocp.CheckpointManager(_in_utf8(self.folder), options=options)

    def _check_records(self) -> None:
        """Set checkpoints with damaged figures or facts aside before Orbax chooses by them."""
        if not self.folder.is_dir():
            return
        for step in sorted(int(p.name) for p in self.folder.iterdir() if p.name.isdigit()):
            if not processes.on_main(lambda step=step: _record_is_whole(self.folder / str(step))):
                self._give_up(step, Damaged("its figures or facts were changed"))

    def save(
        self, progress: Progress, step: int, facts: dict, figures: dict[str, float] | None = None
    ) -> None:
        """Start writing a checkpoint; returns before it is on disk.

        Args:
          progress: what to save.
          step: its number of steps.
          facts: made of JSON's types, saved beside it.
          figures: validation figures; None without validation or where they are no numbers, which
            is never the best.

        Raises:
          UserError: this or an earlier checkpoint could not be written.
        """
        figures = figures if figures and math.isfinite(figures["loss"]) else None
        sums = np.asarray(_checksums(progress)).tolist()
        record = {"checksums": sums, "shapes": _shapes(progress), "facts": facts}
        record["figures"] = figures
        meta = ocp.args.JsonSave({"record": record, "crc": _crc(record)})
        args = ocp.args.Composite(state=ocp.args.StandardSave(_tree(progress)), meta=meta)
        self._empty_deleted()
        with self._told():
            self._manager.save(step, args=args, metrics=figures)

    def _empty_deleted(self) -> None:
        if processes.is_main() and not self._read_only:
            for old in (self.folder / _DELETED).glob("*"):
                shutil.rmtree(old, ignore_errors=True)

    def restore_newest(self, like: Progress) -> tuple[int, Progress, dict] | None:
        """Read the newest checkpoint that is whole, setting damaged ones aside.

        Args:
          like: shapes, and where the arrays are to go; a checkpoint knows nothing of devices. With
            None for `sums` and for the last fields of `state`, these are not read.

        Returns:
          (step, progress, facts); None when there is no checkpoint.
        """
        return self._first_whole(like, lambda: self._manager.latest_step())

    def restore_best(self, like: Progress) -> tuple[int, Progress, dict] | None:
        """Read the checkpoint with the best validation top-1; of equals the newest.

        None where no validation gave numbers.
        """

        def choose():
            step = self._manager.best_step()
            return None if step is None or rank(self.figures(step)) == NEVER_BEST else step

        return self._first_whole(like, choose)

    def _first_whole(self, like, choose):
        while (step := choose()) is not None:
            try:
                return step, *self._restore(like, step)
            except Damaged as damaged:
                self._give_up(step, damaged)
                self._manager.reload()
        return None

    def _give_up(self, step: int, damaged: Damaged) -> None:
        if self._read_only:
            raise UserError(
                f"The checkpoint of step {step} in {self.folder} is damaged ({damaged}). "
                f"{self._cure}".rstrip()
            ) from damaged
        self._tell(
            f"the checkpoint of step {step} is damaged ({damaged}): it is now "
            f"{self.folder.name}/{step}.damaged, and an older one is used"
        )
        processes.on_main(lambda: self._set_aside(step))

    def _set_aside(self, step: int) -> None:
        number, place = 0, self.folder / str(step)
        while (aside := place.with_name(f"{step}.damaged{f'.{number}' * bool(number)}")).exists():
            number += 1
        place.rename(aside)

    def _restore(self, like: Progress, step: int) -> tuple[Progress, dict]:
        self._check_fits(like, step)
        args = ocp.args.Composite(state=_request(like), meta=ocp.args.JsonRestore())
        try:
            found = self._manager.restore(step, args=args)
            tree, meta = found["state"], found["meta"]
            progress = Progress(like.state._replace(**tree["state"]), tree.get("sums"))
            expected, facts = meta["record"]["checksums"], meta["record"]["facts"]
        except PermissionError as error:
            where = f"The checkpoint of step {step} in {self.folder}"
            raise UserError(f"{where} cannot be read: {error}.") from error
        except Exception as error:  # of many kinds: files, JSON, TensorStore
            reason = " ".join(str(error).split()) or type(error).__name__
            raise Damaged(reason[:150]) from error
        found = np.asarray(_checksums(progress)).tolist()
        if like.sums is None:
            expected = expected[: len(found)]  # of what comes first in the tree
        if len(expected) != len(found):
            raise Damaged(f"{len(expected)} checksums for {len(found)} arrays")
        for name, a, b in zip(leaf_paths(progress), expected, found, strict=True):
            if a != b:
                raise Damaged(f"wrong checksum of {name}")
        return progress, facts

    def _check_fits(self, like: Progress, step: int) -> None:
        """Refuse a whole checkpoint of another model or optimizer: it is not damaged."""
        try:
            then = read_record(self.folder / str(step))["shapes"]
        except (OSError, ValueError, KeyError, TypeError):  # damaged, or of an older version
            return
        now = _shapes(like)
        if like.sums is not None:  # else only a part is asked for
            now = dict.fromkeys(then) | now
        other = [path for path, shape in now.items() if then.get(path) != shape]
        if other:
            some = "; ".join(f"{path}: {then.get(path)}, not {now[path]}" for path in other[:3])
            raise UserError(
                f"The checkpoint of step {step} in {self.folder} is of another model or optimizer "
                f"than config.json says: {len(other)} arrays differ ({some}). Put config.json back "
                "as it was, or choose another folder."
            )

    def figures(self, step: int) -> dict[str, float] | None:
        """Validation figures saved with a step."""
        return self._manager.metrics(step)

    def wait(self) -> None:
        """Wait until everything is on disk.

        Raises:
          UserError: a checkpoint could not be written.
        """
        with self._told():
            self._manager.wait_until_finished()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind, *_) -> None:
        if kind is None:
            self.wait()
            self._empty_deleted()
        with contextlib.suppress(Exception):  # of a failed write, which was raised before
            self._manager.close()

    @contextlib.contextmanager
    def _told(self):
        try:
            yield
        except Exception as error:  # OSError, or TensorStore's errors as ValueError
            reason = " ".join(str(error).split())
            reason = "the disk is full" if "No space left" in reason else reason[:300]
            raise UserError(
                f"A checkpoint cannot be written to {self.folder}: {reason}. The same command goes "
                "on from the last complete checkpoint."
            ) from error
