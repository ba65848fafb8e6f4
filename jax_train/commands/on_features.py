"""`evaluate --knn` and `--linear`: classifiers on the features of a frozen model."""

import argparse
import math

from jax_train.commands.options import open_with_data
from jax_train.errors import UserError
from jax_train.printing import counted, readable

_SETTINGS = ("k", "votes", "temperature")  # of nearest neighbours


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what is for such classifiers."""
    group = parser.add_argument_group("classifiers on the features of a frozen model")
    second = "features of the test images; RUN are then those of the training images"
    group.add_argument("test_features", nargs="?", metavar="TEST.npz", help=second)
    knn = "the votes of the nearest training images, by cosine similarity"
    group.add_argument("--knn", action="store_true", help=knn)
    linear = "logistic regression, its strength chosen on a fifth of the training images"
    group.add_argument("--linear", action="store_true", help=linear)
    train = "to train on (default: the run's training split; of other data their own, less a tenth "
    train += "of each class where they have none to test on)"
    group.add_argument("--train_split", metavar="SPLIT", help=train)
    group.add_argument("--k", type=int, metavar="K", help="neighbours that vote (default: 20)")
    votes = "weighted by exp(similarity / temperature), or equal (default: weighted)"
    group.add_argument("--votes", choices=("weighted", "equal"), help=votes)
    temperature = "of the weights (default: 0.07)"
    group.add_argument("--temperature", type=float, metavar="T", help=temperature)


def is_asked(args: argparse.Namespace) -> bool:
    """Whether one is asked for.

    Raises:
      UserError: what is given beside does not go with it, or is out of its range.
    """
    own = ("test_features", "train_split", *_SETTINGS)
    given = {name: value for name in own if (value := getattr(args, name)) is not None}
    if not (args.knn or args.linear):
        for name, value in given.items():
            flag = f"TEST.npz {value}" if name == "test_features" else f"--{name} {value}"
            raise UserError(f"{flag} is for classifiers on features: add --knn or --linear.")
        return False
    if args.knn and args.linear:
        raise UserError("--knn and --linear: evaluate one of them at a time.")
    for flag, value in (("tta", args.tta), ("classes", args.classes)):
        if value:
            raise UserError(
                f"--{flag} {value} is for the model's own head, which --knn and --linear do not "
                "read. Leave it out."
            )
    _check_settings(args, given)
    return True


def _check_settings(args: argparse.Namespace, given: dict[str, object]) -> None:
    for name in _SETTINGS:
        if args.linear and name in given:
            raise UserError(f"--{name} {given[name]} is for --knn. Leave it out with --linear.")
    if args.k is not None and args.k < 1:
        raise UserError(f"--k {args.k}: expected a whole number of neighbours, at least 1.")
    if args.temperature is not None:
        if args.votes == "equal":
            raise UserError(f"--temperature {args.temperature:g} is for --votes weighted.")
        if not (math.isfinite(args.temperature) and args.temperature > 0):
            raise UserError(f"--temperature {args.temperature:g}: expected a number above 0.")
    of_images = ("split", "train_split", "data", "data_dir", "img_size", "model")
    places = [name for name in of_images if getattr(args, name)]
    if args.test_features is not None and places:
        raise UserError(
            f"--{places[0]} {getattr(args, places[0])} is for the images of a model's data, and "
            f"{args.test_features} holds features already. Leave it out."
        )


def evaluate(args: argparse.Namespace, unread: dict[str, str], notes: list[str]):
    """Evaluate the classifier that was asked for.

    Args:
      args: of the command.
      unread: takes the files that cannot be read.
      notes: takes what has to be told of the model and the images.

    Returns:
      (the lines that say what the figures are of, the evaluation).

    Raises:
      UserError: the features, or the model and its data, cannot be used.
    """
    from jax_train.analysis import feature_files, probes

    if args.test_features is not None:
        names = args.run_folder, args.test_features
        train, test = map(feature_files.read, names)
    else:
        names = "The training split", "the test split"
        train, test = _extracted(args, unread, notes)
    probes.check(train, test, names)
    if args.linear:
        found = probes.linear(train, test)
    else:
        given = {name: value for name in _SETTINGS if (value := getattr(args, name)) is not None}
        found = probes.nearest_neighbours(train, test, **given)
    width = counted(test.features.shape[1], "feature")
    return [
        f"{test.model} on {readable(test.data)}",
        f"  {counted(len(test.features), 'image')}; {width} of {readable(test.source)}",
        f"  {found.method}",
    ], found


def _extracted(args: argparse.Namespace, unread: dict[str, str], notes: list[str]):
    """Features of the training and the test split of a model's data."""
    if args.run_folder.endswith((".npz", ".parquet")) and args.data is None:
        raise UserError(
            f"{args.run_folder}: name two files of features, of the training and of the test "
            "images, one after the other; or a run, or a pretrained model and --data."
        )
    from jax_train.analysis import features

    run, other = open_with_data(args)
    for split in features.splits(run, other, args.train_split, args.split):
        images = features.of_split(run, split, other)
        notes += [note for note in (*run.notes, *images.notes) if note not in notes]
        parts = features.extract(run, images, unread, progress=True)
        yield features.gather(run, images, parts)
