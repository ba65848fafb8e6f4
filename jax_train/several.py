"""Several models trained one after the other on the same data and schedule, then compared."""

from pathlib import Path

import jax
from ml_collections import ConfigDict

import jax_models
from jax_train import data
from jax_train.commands.compare import compare
from jax_train.engine import optim, recipe
from jax_train.errors import UserError, nearest
from jax_train.machine import processes
from jax_train.runs import folder as run_folder
from jax_train.runs.history import read_history
from jax_train.runs.results import summary
from jax_train.train import Trainer, train


def model_configs(config: ConfigDict) -> dict[str, ConfigDict]:
    """One config for each model: `config.model.name`, then those of `config.compare`.

    Each keeps those fields of `config.model` that its model has, and differs in nothing else.

    Returns:
      Configs by name of the model, with an empty `compare`.

    Raises:
      UserError: a model is unknown or named twice, or none has a field that is set.
    """
    names = (config.model.name, *config.compare)
    for place, name in enumerate(names):
        field = f"config.{'compare' if place else 'model.name'}={name!r}"
        if name not in jax_models.list_models():
            raise UserError(f"{field}: no such model{nearest(name, jax_models.list_models())}.")
        if name in names[:place]:
            raise UserError(f"{field}: that model is named already; name each once.")
    configs = {name: _of_model(config, name) for name in names}
    for field, value in config.model.items():
        if value is not None and all(own.model[field] is None for own in configs.values()):
            raise UserError(
                f"config.model.{field}={value}: none of {', '.join(names)} has that field. Leave "
                "it unset."
            )
    return configs


def _of_model(config: ConfigDict, name: str) -> ConfigDict:
    known = {"name", "remat", "scan_layers", *jax_models.model_keywords(name)}
    own = config.copy_and_resolve_references()
    with own.unlocked():
        own.compare = ()
        own.model.name = name
        for field in own.model:
            if field not in known:
                own.model[field] = None
        own.model.scan_layers &= "depth" in known
    return own


def train_and_compare(config: ConfigDict, workdir: Path, *, again: bool = False) -> str:
    """Train each model in WORKDIR/MODEL, or go on with it, and write WORKDIR/comparison.html.

    Args:
      config: a valid config whose `compare` is not empty.
      workdir: folder of the run folders.
      again: rename the folder first if all of its runs are finished.

    Returns:
      Tables for people, and where the page is.

    Raises:
      UserError: as `train` and `compare.load` do; all models are checked before the first is
        trained.
      Stopped: SIGTERM or SIGINT came and everything is saved.
    """
    configs = model_configs(config)
    folders = {name: workdir / name for name in configs}
    finished = processes.on_main(lambda: _finished(configs, workdir, again))
    if len(finished) < len(configs):
        _check_all(configs, folders)
    for place, (name, own) in enumerate(configs.items(), start=1):
        if name in finished:
            _say(f"{folders[name]} holds this run, finished")
            continue
        _say(f"\n{name}, model {place} of {len(configs)}")
        _say(summary(train(own, folders[name]), folders[name]))
    if not processes.is_main():
        return ""
    page = compare(list(folders.values()), workdir)
    return f"\n{learning_table(folders)}\n\n{page}"


def _say(text: str) -> None:
    if processes.is_main():
        print(text, flush=True)


def _finished(configs: dict[str, ConfigDict], workdir: Path, again: bool) -> list[str]:
    """Check the run folders; return the models whose runs are finished."""
    if (workdir / "config.json").exists():
        raise UserError(
            f"--workdir {workdir} holds a run of one model, and this config trains "
            f"{len(configs)} to be compared. Choose another --workdir."
        )
    for name, own in configs.items():
        run_folder.check(workdir / name, own)
    finished = [name for name in configs if run_folder.results(workdir / name)]
    if again and len(finished) == len(configs):
        print(f"the runs that were in {workdir} are now in {run_folder.set_aside(workdir)}")
        return []
    return finished


def _check_all(configs: dict[str, ConfigDict], folders: dict[str, Path]) -> None:
    """Find what does not fit in any of the models now, not after hours of training the first."""
    first = next(iter(configs.values()))
    optim.validate(first)
    if first.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    if jax.process_count() > 1:  # the first process prepares the data, the others find it there
        processes.on_main(lambda: data.load_splits(first) and None)
    splits = data.load_splits(first)
    for name, own in configs.items():
        Trainer(recipe.resolve(own, splits), splits, folders[name])


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
            f"  {name:{width}} {final:>10} {best:>18} {history.last_train_loss:11.4f} "
            f"{results['seconds'] / results['epochs']:8.1f} {results['parameters']:12,}"
        )
    return "\n".join(lines)
