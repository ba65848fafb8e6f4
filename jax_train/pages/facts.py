"""What both pages say of a run: of which data it is, and what its figures have to be read with."""

from jax_train.analysis import evaluation as evaluate
from jax_train.analysis.evaluation import Evaluation
from jax_train.data.sources.by_name import scheme_of
from jax_train.printing import counted
from jax_train.runs import initial
from jax_train.runs.trained import TrainedRun


def data_name(run: TrainedRun) -> str:
    """Name of the data for a title: of a folder its own name, without the path to it."""
    name = run.config.data.name
    return scheme_of(name).title(name)


def splits(run: TrainedRun, evaluation: Evaluation) -> list[str]:
    """Which images the model was trained, validated and tested on."""
    fields, sizes = run.config.data, (run.results or {}).get("images", {})

    def of(name, split):
        return f"{split} ({counted(sizes[name], 'image')})" if name in sizes else split

    lines = [f"Data: {fields.name}; trained on {of('train', fields.train_split)}"]
    if fields.val_split:
        lines.append(f"validated on {of('val', fields.val_split)}")
    lines.append(f"tested on {evaluation.split} ({counted(len(evaluation.labels), 'image')})")
    return lines


def began_with(run: TrainedRun) -> list[str]:
    """From which weights the model was trained on, if it did not begin anew."""
    source = initial.described(run.config)
    return [] if source is None else [f"began with {source}"]


def notes(run: TrainedRun, evaluation: Evaluation, split) -> list[str]:
    """What the figures of the test split have to be read with.

    The results of a finished run say which of its images serve twice.
    """
    found = evaluate.notes(run, evaluation) + evaluate.data_changes(run, split)
    if run.results is None:
        return found + evaluate.training_overlap(run, split)
    return found + [note.removeprefix("note: ") for note in run.results.get("notes", [])]
