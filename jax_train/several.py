"""One model trained, or several on the same data and schedule and then compared."""

import functools
import os
from pathlib import Path

from ml_collections import ConfigDict

from jax_train import checks
from jax_train.commands.compare import compare
from jax_train.engine import recipe
from jax_train.engine.models import model_configs
from jax_train.engine.program import Program
from jax_train.errors import UserError
from jax_train.machine import processes
from jax_train.printing import figure, say
from jax_train.runs import entry, initial
from jax_train.runs import folder as run_folder
from jax_train.runs.history import read_history
from jax_train.runs.results import summary
from jax_train.train import load, train


def train_one(
    config: ConfigDict, workdir: str | os.PathLike, *, again: bool = False, extend: bool = False
) -> str:
    """Train a model, or find it trained, and return its results for people.

    With `again` the folder is renamed first if its run is finished. `extend` as of `train`, which
    also tells what is raised.
    """
    workdir = Path(workdir)
    recalled = initial.recall(config, workdir)
    checks.check(recalled)
    results = processes.on_main(lambda: _finished_run(recalled, workdir, again, extend))
    return summary(results or train(config, workdir, extend=extend), workdir)


def _finished_run(config: ConfigDict, workdir: Path, again: bool, extend: bool) -> dict | None:
    """Check the run folder; return the results of a finished run that is only to be reported."""
    results = _finished_results(config, workdir, extend, again)
    if results and again:
        initial.check_place(config)
        say(f"the finished run that was in {workdir} is now in {run_folder.set_aside(workdir)}")
        return None
    if results:
        say(f"{workdir} holds this run, finished; --if_finished=again trains again")
    return results


def _finished_results(config: ConfigDict, workdir: Path, extend: bool, again: bool) -> dict | None:
    """Check a run folder; return the results if nothing is left to be trained.

    Those that are to be reported, not trained `again`, have to be of the same data.
    """
    run_folder.check(workdir, config, extend=extend)
    results = run_folder.results(workdir)
    if not results or config.train.epochs > run_folder.read_config(workdir).train.epochs:
        return None
    if not again:
        entry.check_finished(workdir, config, load)
    return results


def train_and_compare(
    config: ConfigDict, workdir: str | os.PathLike, *, again: bool = False, extend: bool = False
) -> str:
    """Train each model in WORKDIR/MODEL, or go on with it, and write WORKDIR/comparison.html.

    Args:
      config: of all runs; its `compare` is not empty.
      workdir: folder of the run folders.
      again: rename the folder first if all of its runs are finished.
      extend: as of `train`.

    Returns:
      Tables for people, and where the page is.

    Raises:
      UserError: as `train` and `compare.load` do; all models are checked before the first is
        trained.
      Stopped: SIGTERM or SIGINT came and everything is saved.
    """
    checks.check(config)
    workdir, configs = Path(workdir), model_configs(config)
    folders = {name: workdir / name for name in configs}
    finished = processes.on_main(lambda: _finished(configs, workdir, again, extend))
    if len(finished) < len(configs):
        _check_all(configs, folders, extend)
    for place, (name, own) in enumerate(configs.items(), start=1):
        if name in finished:
            _tell(f"{folders[name]} holds this run, finished")
            continue
        _tell(f"\n{name}, model {place} of {len(configs)}")
        _tell(summary(train(own, folders[name], extend=extend), folders[name]))
    if not processes.is_main():
        return ""
    page = compare(list(folders.values()), workdir)
    return f"\n{learning_table(folders)}\n\n{page}"


def _tell(text: str) -> None:
    if processes.is_main():
        say(text)


def _finished(
    configs: dict[str, ConfigDict], workdir: Path, again: bool, extend: bool
) -> list[str]:
    """Check the run folders; return the models whose runs are finished."""
    if (workdir / "config.json").exists():
        raise UserError(
            f"--workdir {workdir} holds a run of one model, and this config trains "
            f"{len(configs)} to be compared. Choose another --workdir."
        )
    found = {
        name: _finished_results(own, workdir / name, extend, again) for name, own in configs.items()
    }
    finished = [name for name in configs if found[name]]
    if again and len(finished) == len(configs):
        say(f"the runs that were in {workdir} are now in {run_folder.set_aside(workdir)}")
        return []
    return finished


def _check_all(configs: dict[str, ConfigDict], folders: dict[str, Path], extend: bool) -> None:
    """Find what does not fit in any of the models now, not after hours of training the first."""
    splits = load(next(iter(configs.values())))
    for name, own in configs.items():
        enter = functools.partial(entry.enter, folders[name], own, splits, extend=extend)
        processes.on_main(enter)
        Program(recipe.resolve(own, splits), splits.train)


def learning_table(folders: dict[str, Path]) -> str:
    """How each run learned: validation, training loss, seconds per epoch, parameters."""
    width = max(5, *map(len, folders))
    lines = [f"  {'':{width}}  final val   best val (epoch)  train loss  s/epoch   parameters"]
    for name, folder in folders.items():
        history, results = read_history(folder), run_folder.results(folder)
        final = best = "–"
        if len(history.val):
            share, epoch = history.best_val
            final, best = f"{history.val[-1, 2]:.2%}", f"{share:.2%} ({epoch:g})"
        lines.append(
            f"  {name:{width}} {final:>10} {best:>18} {figure(history.last_train_loss, '11.4f')} "
            f"{results['seconds'] / results['epochs']:8.1f} {results['parameters']:12,}"
        )
    return "\n".join(lines)
