"""One model trained; several on the same data and schedule, compared; one by several seeds."""

import functools
import os
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from jax_train import checks
from jax_train.engine import recipe
from jax_train.engine.models import model_configs
from jax_train.engine.program import Program
from jax_train.errors import UserError
from jax_train.files import check_folder
from jax_train.machine import processes
from jax_train.printing import (
    WIDTH,
    columns,
    counted,
    figure,
    pad,
    say,
    shorten,
    shorten_middle,
    significant,
)
from jax_train.runs import data_record, entry, initial
from jax_train.runs import folder as run_folder
from jax_train.runs.history import read_history
from jax_train.runs.results import summary
from jax_train.runs.seeds import combine
from jax_train.runs.seeds import write as write_seeds
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
    configs = model_configs(config)
    folders = _train_all(configs, Path(workdir), "model", again, extend, _check_all)
    if not processes.is_main():
        return ""
    page = compare(list(folders.values()), workdir)
    return f"\n{learning_table(folders)}\n\n{page}"


def compare(
    folders: Sequence[str | Path],
    out: str | os.PathLike | None = None,
    data: str | None = None,
    data_dir: str | None = None,
) -> str:
    """Compare finished runs on the same data and write comparison.html.

    Args:
      folders: of the runs.
      out: folder of the page; None: the one the first run folder is in.
      data, data_dir: where their data are now; None: where they were in training.

    Returns:
      A table for people, at most 80 columns wide for two models, and where the page is.

    Raises:
      UserError: the runs cannot be compared, or nothing can be written.
    """
    from jax_train.analysis import comparison
    from jax_train.machine import runtime
    from jax_train.pages.comparison import verdicts, write
    from jax_train.pages.page import Page

    runtime.prepare()
    out = Path(folders[0]).parent if out is None else Path(out)
    check_folder("--out", out)
    compared = comparison.load(folders, data, data_dir, progress=True)
    lines = _comparison_table(compared)
    for line in verdicts(compared):
        lines += textwrap.wrap(line, WIDTH, initial_indent="  ", subsequent_indent="  ")
    return "\n".join([*lines, write(compared, Page(out / "comparison.html"))])


def _in_columns(names: Iterable[str], most: int) -> list[str]:
    """The first column of a table that leaves it `most` columns: of the header, then the names."""
    cut = ["", *(shorten_middle(name, most) for name in names)]
    width = max(5, *map(columns, cut))
    return [pad(name, width) for name in cut]


def _comparison_table(compared) -> list[str]:
    """The main figures as lines for people."""
    from jax_train.analysis.comparison import seconds_per_epoch

    blank, *names = _in_columns((one.name for one in compared), WIDTH - 62)
    lines = [
        f"{compared[0].evaluation.split} of {compared[0].run.config.data.name}: "
        f"{counted(len(compared[0].right), 'image')}",
        f"  {blank}   top-1 95 % interval  parameters   MFLOP images/s s/epoch",
    ]
    for name, one in zip(names, compared, strict=True):
        low, high = one.evaluation.top1_interval
        top1 = figure(one.evaluation.figures["top1"], "7.2%")
        lines.append(
            f"  {name} {top1} "
            f"{figure(100 * low, '5.1f')} – {figure(100 * high, '4.1f')} % "
            f"{figure(one.run.results['parameters'], '11,')} "
            f"{significant(one.flops.forward / 1e6, 4):>7} {one.evaluation.images_per_sec:8,.0f} "
            f"{figure(seconds_per_epoch(one), '7.1f')}"
        )
    return lines


def train_seeds(
    config: ConfigDict,
    seeds: Sequence[int],
    workdir: str | os.PathLike,
    *,
    again: bool = False,
    extend: bool = False,
) -> str:
    """Train a model by each seed in WORKDIR/seed_N, or go on with it; write WORKDIR/seeds.json.

    Args:
      config: of all runs, but for its seed.
      seeds: at least one, each once.
      workdir, again, extend: as of `train_and_compare`.

    Returns:
      A table for people: what each run reached, their mean and standard deviation.

    Raises:
      UserError: the config is to compare models, or as `train`.
      Stopped: SIGTERM or SIGINT came and everything is saved.
    """
    if config.compare:
        raise UserError(
            f"config.compare={config.compare} trains several models, and --seeds one of them "
            "several times. Leave one of the two out; `python -m jax_train compare` takes any runs."
        )
    workdir, configs = Path(workdir), {}
    for seed in seeds:
        own = config.copy_and_resolve_references()
        own.seed = seed
        checks.check(own)
        configs[f"seed_{seed}"] = own
    folders = _train_all(configs, workdir, "seed", again, extend)
    if not processes.is_main():
        return ""
    results = map(_results, folders.values())
    found = combine(dict(zip(seeds, results, strict=True)))
    try:
        write_seeds(workdir, found)
    except OSError as error:
        raise UserError(
            f"--workdir {workdir} cannot be written: {error}. Make room there."
        ) from error
    return f"\n{seeds_table(found)}\n  files: {workdir}/\n         seeds.json, seeds.csv, seed_…/"


def _train_all(
    configs: dict[str, ConfigDict], workdir: Path, what: str, again: bool, extend: bool, check=None
) -> dict[str, Path]:
    """Train each config in a folder of its name, unless it is finished there: their folders.

    `what` a config is one of is for messages; `check(configs, folders, extend)` is called before
    the first is trained.
    """
    folders = {name: workdir / name for name in configs}
    finished = processes.on_main(lambda: _finished(configs, workdir, what, again, extend))
    if check and len(finished) < len(configs):
        check(configs, folders, extend)
    for place, (name, own) in enumerate(configs.items(), start=1):
        if name in finished:
            _tell(f"{folders[name]} holds this run, finished")
            continue
        _tell(f"\n{name}, {what} {place} of {len(configs)}")
        _tell(summary(train(own, folders[name], extend=extend), folders[name]))
    return folders


def _tell(text: str) -> None:
    if processes.is_main():
        say(text)


def _finished(
    configs: dict[str, ConfigDict], workdir: Path, what: str, again: bool, extend: bool
) -> list[str]:
    """Check the run folders; return the names of those that are finished."""
    if (workdir / "config.json").exists():
        raise UserError(
            f"--workdir {workdir} holds a run of one {what}, and this command trains "
            f"{len(configs)}. Choose another --workdir."
        )
    found = {
        name: _finished_results(initial.recall(own, workdir / name), workdir / name, extend, again)
        for name, own in configs.items()
    }
    finished = [name for name in configs if found[name]]
    if again and len(finished) == len(configs):
        say(f"the runs that were in {workdir} are now in {run_folder.set_aside(workdir)}")
        return []
    return finished


def _check_all(configs: dict[str, ConfigDict], folders: dict[str, Path], extend: bool) -> None:
    """Find what does not fit in any of the models now, not after hours of training the first."""
    first, config = next(iter(configs.items()))
    splits = load(data_record.pinned(config, folders[first]))
    for name, own in configs.items():
        enter = functools.partial(entry.enter, folders[name], own, splits, extend=extend)
        processes.on_main(enter)
        Program(recipe.resolve(own, splits), splits.train)


def _results(folder: Path) -> dict:
    """Those of a run that is finished."""
    results = run_folder.results(folder)
    assert results is not None, folder
    return results


def seeds_table(found: dict) -> str:
    """What each seed reached, and mean and deviation, of `seeds.combine`; at most 80 columns."""
    splits = list(found["mean"])
    heads = "".join(f"  {split + ' top-1':>11}  {split + ' loss':>9}" for split in splits)
    count = counted(len(found["runs"]), "seed")
    lines = [f"{found['model']} on {found['data']}: {count}", f"  {'seed':<11} epoch{heads}"]

    def row(name: object, epoch: object, figures: dict, forms=("11.2%", "9.4f")) -> str:
        cells = (
            f"  {figure(figures[split][key], form)}"
            for split in splits
            for key, form in zip(("top1", "loss"), forms, strict=True)
        )
        return f"  {name!s:<11} {epoch!s:>5}{''.join(cells)}"

    lines += [row(run["seed"], run["reported_epoch"], run) for run in found["runs"]]
    lines += [row("mean", "", found["mean"]), row("± deviation", "", found["std"])]
    lines.append(row("n", "", found["n"], ("11,", "9,")))
    return "\n".join(shorten(line, WIDTH) for line in lines)


def learning_table(folders: dict[str, Path]) -> str:
    """How each run learned: validation, training loss, seconds per epoch, parameters."""
    blank, *names = _in_columns(folders, WIDTH - 66)
    lines = [f"  {blank}  final val   best val (epoch)  train loss  s/epoch   parameters"]
    for name, folder in zip(names, folders.values(), strict=True):
        history, results = read_history(folder), _results(folder)
        final = best = "–"
        if len(history.val):
            share, epoch = history.best_val
            final, best = f"{history.val[-1, 2]:.2%}", f"{share:.2%} ({epoch:g})"
        lines.append(
            f"  {name} {final:>10} {best:>18} {figure(history.last_train_loss, '11.4f')} "
            f"{results['seconds'] / results['epochs']:8.1f} {results['parameters']:12,}"
        )
    return "\n".join(lines)
