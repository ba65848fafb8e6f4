"""The training loop."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from jax_train import checks, data
from jax_train.data import Splits
from jax_train.engine import feed, metrics
from jax_train.engine.program import Program
from jax_train.engine.recipe import resolve, step_tables
from jax_train.engine.state import Progress, TrainState
from jax_train.errors import UserError
from jax_train.files import finite
from jax_train.machine import allocator, processes, runtime
from jax_train.machine.stopping import StopSignals
from jax_train.printing import WIDTH, as_paragraph, counted, figure, listing, say
from jax_train.reporting import Reporter
from jax_train.runs import data_record, entry, initial
from jax_train.runs import folder as run_folder
from jax_train.runs.checkpoint import Checkpoints
from jax_train.runs.log import RunLog
from jax_train.runs.results import environment, write_confusion, write_results
from jax_train.saving import Saver, find_conditions, passes


def train(config: ConfigDict, workdir: str | os.PathLike, *, extend: bool = False) -> dict:
    """Train a model, or go on with a run that was interrupted.

    Args:
      config: of the run; all of it is checked first. Weights that it names to start from are
        read before the data, and never again (see `initial`).
      workdir: the run folder; it must be empty, missing, or hold a run of the same config that
        began with the same data (see `data_record`).
      extend: also go on with a run of fewer epochs, finished or not. Its newest checkpoint is the
        start; from there on all is as in a run of this config, whose schedule is worked out for
        all of its epochs.

    Returns:
      What results.json holds.

    Raises:
      UserError: the config cannot be trained or does not fit the data, files cannot be read or
        written, the data are others than when the run began, or a step is not finite.
      Stopped: SIGTERM or SIGINT came and everything is saved.
    """
    workdir = Path(workdir)
    config = initial.recall(config, workdir)
    checks.check(config)
    if source := initial.read(config, workdir):
        config = source.config
        checks.check(config)
    splits = load(data_record.pinned(config, workdir))
    checks.check_patience(config, bool(splits.val))
    found = _enter(workdir, config, splits, extend)
    statistics = found.statistics
    if source and not statistics:
        statistics = source.statistics(splits.train.image_shape[2])
    resolved = resolve(config, splits, **statistics)
    if source:
        weights, lines = source.weights(resolved, splits.train.class_names)
    else:
        weights, lines = None, initial.changed(config)
    program = Program(resolved, splits.train, given=weights)  # refuses before a folder is made
    del source, weights
    return fit(program, splits, workdir, extend=extend, notes=lines)


def _enter(workdir: Path, config, splits, extend: bool, held: bool = False) -> entry.Entry:
    enter = functools.partial(entry.enter, workdir, config, splits, extend=extend, held=held)
    return entry.Entry(*processes.on_main(enter))


def load(config: ConfigDict) -> Splits:
    """Make this process ready to compute what a config asks for, and read its data."""
    runtime.prepare()
    if config.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    if jax.process_count() > 1:  # the first process prepares the data, the others find it there
        processes.on_main(lambda: data.load_splits(config) and None)
    return data.load_splits(config)


def fit(
    program: Program,
    splits: Splits,
    workdir: str | os.PathLike,
    on_epoch: Callable[[Saver], None] | None = None,
    *,
    extend: bool = False,
    notes: Sequence[str] = (),
) -> dict:
    """Train from the last checkpoint, or from the start, to the end; write all files.

    Calls `on_epoch` after each epoch and tells the `notes` of a start; `extend`, what it returns
    and raises as of `train`.
    """
    workdir = Path(workdir)
    with contextlib.ExitStack() as stack:
        processes.on_main(lambda: stack.enter_context(run_folder.locked(workdir)))
        found = _enter(workdir, program.config, splits, extend, held=True)
        record = data_record.describe(program.config, splits)
        create = functools.partial(run_folder.create, workdir, program.config, record)
        if found.epochs is None:
            processes.on_main(create)
        try:
            return _fit_in_folder(program, splits, workdir, on_epoch, found, create, notes)
        except OSError as error:
            raise UserError(
                f"The run folder {workdir} cannot be written: {error}. Make room there; the same "
                "command then goes on from the last checkpoint."
            ) from error


def _fit_in_folder(program: Program, splits: Splits, workdir: Path, on_epoch, found, create, notes):
    with (
        StopSignals() as signals,
        Checkpoints(workdir / "checkpoints", _complain) as checkpoints,
    ):
        saver = Saver(program, checkpoints, signals, find_conditions(program, splits))
        restored = saver.restore(program.like)
        step, progress, since_eval = restored or _start(program, saver)
        _check_not_beyond(program, workdir, step)
        progress, skipped = _forget_skipped(program, progress)
        notes = [*notes, *found.notes, *skipped, *_other_dtype(program)]
        if found.epochs not in (None, program.config.train.epochs):
            _check_patience(saver, workdir, step // program.steps_per_epoch)
            notes = [*notes, _extension(program, found.epochs, step)]
            processes.on_main(lambda: entry.leave_finished(workdir, found.epochs))
        if found.epochs is not None:  # now that it goes on, under values that may be others
            processes.on_main(create)
        _announce(program, splits, workdir, step if restored else None, notes)
        active = processes.is_main()
        with RunLog(program.config, workdir, step, program.total_steps, active=active) as log:
            run = _Run(program, splits, saver, Reporter(program, log, workdir, since_eval))
            return _finish(run, *_loop(run, progress, step, on_epoch), workdir)


def _check_patience(saver: Saver, workdir: Path, epoch: int) -> None:
    """Refuse to extend a run that would end where it is."""
    if saver.patience.is_over:
        raise UserError(
            f"The run in {workdir} ended at epoch {epoch}, because none of its last "
            f"{counted(saver.patience.waited, 'evaluation')} was better than the best before: more "
            "epochs change nothing. To go on add --config.train.patience=0 (no early stopping) or "
            "a larger number."
        )


def _check_not_beyond(program: Program, workdir: Path, step: int) -> None:
    """Refuse to go on beyond the end: of fewer images an epoch has fewer steps."""
    if step > program.total_steps:
        epochs = -(-step // program.steps_per_epoch)
        raise UserError(
            f"The run in {workdir} has done {counted(step, 'step')}, and with the data as they are "
            f"now config.train.epochs={program.config.train.epochs} are {program.total_steps:,}. "
            f"Go on with --config.train.epochs={epochs} --extend, or put the data back."
        )


def _forget_skipped(program: Program, progress: Progress) -> tuple[Progress, list[str]]:
    """Go on where steps were skipped and that is not allowed any more: it was when they were."""
    sums = progress.sums
    if program.recipe.skip_nonfinite or not (count := int(sums.skipped)):
        return progress, []
    zero = program.zero_sums()
    sums = sums._replace(skipped=zero.skipped, bad_step=zero.bad_step)
    told = f"note: skipped before the checkpoint, as not finite: {counted(count, 'step')}"
    return progress._replace(sums=sums), [told]


def _start(program: Program, saver: Saver) -> tuple[int, Progress, list]:
    """Begin; what does not follow from the seed is in the folder from the first step on."""
    progress = program.start()
    if program.keeps_start:
        saver.save(progress, 0, [], None)
        saver.checkpoints.wait()
    return 0, progress, []


def _other_dtype(program: Program) -> Iterator[str]:
    """Say where the computation has another dtype than was asked for."""
    asked, dtype = program.config.dtype, program.recipe.dtype
    if asked != dtype:
        yield (
            f"note: computing in {dtype}, because this processor has no instructions for {asked}, "
            "or the package onednn-cpu-gomp, which uses them, is not installed"
        )


def _extension(program: Program, before: int, step: int) -> str:
    """Say what going on to more epochs than `before` means for the schedule and the bits."""
    config = program.config.copy_and_resolve_references()
    start = f"going on to {config.train.epochs} epochs instead of {before}"
    config.train.epochs = before
    then, now = (step_tables(one, program.steps_per_epoch) for one in (config, program.config))
    pairs = zip(then, now, strict=True)
    if all(np.array_equal(one[:step], other[:step]) for one, other in pairs):
        return f"{start}: the schedule up to here is the same, and so are the weights at the end"
    rate = program.schedule.learning_rate[min(step, program.total_steps - 1)]
    return (
        f"{start}: the schedule is that of the longer run, from here on (learning rate "
        f"{rate:.3g}); a run of that length from the start would end with other weights"
    )


@dataclass(frozen=True)
class _Run:
    """What a run under way works with."""

    program: Program
    splits: Splits
    saver: Saver
    reporter: Reporter

    def show(self, progress: Progress, step: int) -> Progress:
        """See `Reporter.show`."""
        return self.reporter.show(progress, step, self.saver.saved_step)

    def save(self, progress: Progress, step: int, figures: dict | None = None) -> None:
        """Start writing a checkpoint, unless a step was not finite."""
        if not self.program.recipe.skip_nonfinite and int(progress.sums.skipped):
            self.show(progress, step)  # raises
        self.reporter.log.to_disk()
        self.saver.save(progress, step, self.reporter.since_eval, figures)

    def stop_if_asked(self, progress: Progress, step: int) -> None:
        """Save and leave after a signal, to whichever process it came."""
        if self.saver.is_asked_to_stop():
            self.save(progress, step)
            self.saver.stop(step)

    def evaluate(self, state: TrainState, split_feed) -> metrics.EvalSums:
        """Sums over a split, on the host."""
        return self.program.evaluate(state.reported, split_feed, self.splits.train.num_classes)


def _announce(program: Program, splits: Splits, workdir: Path, step: int | None, notes) -> None:
    """Print what is trained on what, and where; `step` is that of a checkpoint."""
    if not processes.is_main():
        return
    config, names = program.config, {"train": "train", "val": "validation", "test": "test"}
    sizes = ", ".join(
        f"{len(split):,} {names[name]}{' (streamed)' * split.streamed}"
        for name, split in vars(splits).items()
        if split
    )
    where = f"{jax.default_backend()}, {program.layout.describe()}"
    if jax.process_count() > 1:
        where += f" in {jax.process_count()} processes"
    say(as_paragraph(f"{config.model.name}: {_parameters(program)}"))
    shape, classes = "x".join(map(str, splits.train.image_shape)), splits.train.class_names
    say(as_paragraph(f"{config.data.name}: {sizes} images of {shape}"))
    say(f"splits: {', '.join(split.split for split in vars(splits).values() if split)}")
    start = f"{counted(len(classes), 'class', 'classes')}: "
    say(start + listing(classes, WIDTH - len(start)))
    say(f"{where}; run folder {workdir}")
    for note in (*(f"note: {note}" for note in splits.train.notes), *splits.notes(), *notes):
        say(as_paragraph(note))
    if step is not None:
        epoch = f"{step / program.steps_per_epoch:.4g} of {config.train.epochs}"
        say(f"going on after step {step} of {program.total_steps} (epoch {epoch})")


def _parameters(program: Program) -> str:
    """How many parameters there are, and how many of them train."""
    text, epochs = f"{program.parameters:,} parameters", program.config.train.probe_epochs
    if program.trained < program.parameters:
        text += f", of which {program.trained:,} train"
    if epochs:
        text += f"; at first the head alone, for {counted(epochs, 'epoch')}"
    if program.recipe.average is not None:
        text += "; the average of the weights is evaluated"
    return text


def _loop(run: _Run, progress: Progress, step: int, on_epoch) -> tuple[TrainState, int]:
    """Epochs up to the last, each with what is due at its end: the state and the step then."""
    program, splits, config = run.program, run.splits, run.program.config
    train_feed = feed.create_training(splits.train, program.layout, config)
    val_feed = feed.create(splits.val, program.layout) if splits.val else None
    epochs = config.train.epochs
    for epoch in range(step // program.steps_per_epoch, epochs):
        if run.saver.patience.is_over:
            break
        progress, before, step = _run_epoch(run, train_feed, epoch, progress, step)
        done = epoch + 1
        if done == epochs or done % config.eval.every_epochs == 0:
            progress = _end_epoch(run, done, progress, step, val_feed)
        elif run.saver.is_due(before, step):
            run.save(progress, step)
        if done < epochs:
            run.stop_if_asked(progress, step)
        if on_epoch:
            on_epoch(run.saver)
    return progress.state, step


def _run_epoch(run: _Run, train_feed, epoch: int, progress: Progress, step: int):
    """The steps of an epoch that are left: (progress, step before the last call, step)."""
    program, reporter, before = run.program, run.reporter, step
    # Looking a field of the config up takes as long as a step of a small model.
    log_every, end = program.config.log.every_steps, (epoch + 1) * program.steps_per_epoch
    alone = jax.process_count() == 1
    for call in program.train_calls(train_feed, epoch, step % program.steps_per_epoch):
        progress = program.train(
            train_feed, call, progress, reporter.log.line, reporter.clock.paused
        )
        before, step = step, step + call.length
        reporter.count(call.length, progress.sums)
        logged = passes(before, step, log_every)
        if logged:
            progress = run.show(progress, step)
        if step < end:  # at the end of an epoch, evaluation comes first
            if run.saver.is_due(before, step):
                run.save(progress, step)
            # Several processes have to agree on the step, which takes a message.
            if logged or alone:
                run.stop_if_asked(progress, step)
    return progress, before, step


def _end_epoch(run: _Run, epoch: int, progress: Progress, step: int, val_feed) -> Progress:
    """Validate, save a checkpoint and print a line."""
    reporter = run.reporter
    progress = run.show(progress, step)
    trained, figures = reporter.of_epoch(), None
    allocator.trim()
    line = f"epoch {epoch:3d}  train {_figures(trained)}"
    if val_feed is not None:
        with reporter.clock.paused():
            figures = metrics.reported_figures(run.evaluate(progress.state, val_feed))
        line += f"   val {_figures(figures)}"
        reporter.row("val", step, figures)
        # While the head alone trains the run is not to end: what comes then may be better.
        run.saver.patience.see(figures, epoch > run.program.config.train.probe_epochs)
    run.save(progress, step, figures)
    reporter.log.line(line)
    return progress


def _figures(of: dict[str, float]) -> str:
    return f"loss {figure(of['loss'], '.4f')} top-1 {figure(of['top1'], '6.2%')}"


def _finish(run: _Run, state: TrainState, end: int, workdir: Path) -> dict:
    """Evaluate the reported weights on the test split and write the results."""
    program, splits, checkpoints = run.program, run.splits, run.saver.checkpoints
    config, clock = program.config, run.reporter.clock
    checkpoints.wait()
    which, step, val = "last", end, None
    best = config.checkpoint.report == "best" and splits.val
    if found := best and checkpoints.restore_best(program.like):
        which, (step, (state, _), _) = "best", found
    if splits.val:
        val = checkpoints.figures(step) or dict.fromkeys(metrics.FIGURES)
    sums = run.evaluate(state, feed.create(splits.test, program.layout))
    test = metrics.reported_figures(sums)
    run.reporter.row("test", end, test)
    epochs = end // program.steps_per_epoch
    results = finite(
        environment()
        | {
            "model": config.model.name,
            "data": config.data.name,
            "parameters": program.parameters,
            "epochs": epochs,
            "steps": end,
            "ended": _ended(run.saver, epochs, config.train.epochs),
            "began_with": initial.described(config),
            "reported_weights": which,
            "reported_epoch": step // program.steps_per_epoch,
            "val": val,
            "test": test,
            "class_names": list(splits.test.class_names),
            "images": {name: len(split) for name, split in vars(splits).items() if split},
            "notes": splits.notes(),
            "seconds": round(clock.seconds(), 2),
            "train_images_per_sec": round(clock.mean_speed(), 1),
        }
    )
    if processes.is_main():
        write_run(workdir, results, sums.confusion, splits.test.class_names)
    return results


def _ended(saver: Saver, epoch: int, planned: int) -> dict[str, object]:
    """At which epoch a run ended, of how many, and why."""
    waited = counted(saver.patience.waited, "evaluation")
    why = f"no better validation top-1 in {waited}" if epoch < planned else "all epochs"
    return {"epoch": epoch, "of": planned, "why": why}


def write_run(
    workdir: str | os.PathLike, results: dict, confusion, class_names: Sequence[str]
) -> None:
    """Write the files of a finished run; results.json comes last and marks it as finished."""
    # A second, for which the first step need not wait.
    from jax_train.drawing.results import draw_curves

    workdir = Path(workdir)
    write_confusion(workdir / "confusion.csv", confusion, class_names)
    top1 = figure(results["test"]["top1"], ".2%")
    title = f"{results['model']} on {results['data']}: test top-1 {top1}"
    draw_curves(workdir / "metrics.csv", workdir / "curves.png", title)
    write_results(workdir / "results.json", results)


def _complain(line: str) -> None:
    if processes.is_main():
        say(as_paragraph(line), error=True)
