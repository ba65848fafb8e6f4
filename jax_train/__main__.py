"""`python -m jax_train COMMAND`: the small commands around training.

Each command is one function that adds its arguments and one that runs it; what a command needs
is imported when it runs, so that `--help` stays quick.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from jax_train.errors import UserError, nearest, run_command


def add_prepare(commands) -> None:
    """Add `prepare`: fetch a data set, or take it from disk, and write it for reading."""
    parser = commands.add_parser(
        "prepare",
        help="download and prepare cifar10, cifar100 or mnist (no TensorFlow needed)",
        description="Download a data set, or take its original archive from disk, check it "
        "against the registered checksum, and write it in TFDS's array_record format.",
    )
    parser.add_argument("name", metavar="NAME", help="cifar10, cifar100 or mnist")
    parser.add_argument(
        "--data_dir",
        help="TFDS folder to write to (default: $TFDS_DATA_DIR or ~/tensorflow_datasets)",
    )
    parser.add_argument(
        "--archive",
        nargs="+",
        default=[],
        metavar="FILE",
        help="original archive(s) on disk, or a folder that holds them, instead of a download",
    )
    parser.set_defaults(run=run_prepare)


def run_prepare(args: argparse.Namespace) -> None:
    """Run `prepare` and say where the data is."""
    from jax_train import prepare

    print(prepare.prepare_and_describe(args.name, args.data_dir, args.archive))


def add_convert(commands) -> None:
    """Add `convert`: weights of files and runs to PyTorch, safetensors and NumPy."""
    parser = commands.add_parser(
        "convert",
        help="convert weights between PyTorch (.pt), .safetensors and .npz",
        description="Load a file of weights, or those of a run, into a model, which proves that "
        "all of it fits, and "
        "write it in the format that the new name ends in: .pt, .pth or .bin (PyTorch), "
        ".safetensors or .npz (NumPy). Code in a .pt file is never run.",
    )
    parser.add_argument(
        "--model", metavar="NAME", help="name of the model; a run folder says it by itself"
    )
    parser.add_argument(
        "--from", required=True, dest="source", metavar="FILE",
        help="weights to read, or a run folder such as runs/vit_digits",
    )  # fmt: skip
    parser.add_argument("--to", required=True, dest="target", metavar="FILE", help="file to write")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="settings",
        metavar="KEYWORD=VALUE",
        help="a constructor keyword of the model that is not the default, such as num_classes=10; "
        "may be repeated",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it exists")
    parser.set_defaults(run=run_convert)


def run_convert(args: argparse.Namespace) -> None:
    """Run `convert` and say what was written."""
    from jax_train import convert

    print(
        convert.convert_and_describe(
            args.model,
            args.source,
            args.target,
            settings=args.settings,
            overwrite=args.overwrite,
        )
    )


def add_predict(commands) -> None:
    """Add `predict`: the classes of image files."""
    parser = commands.add_parser(
        "predict",
        help="predict the classes of image files with a trained model",
        description="Predict the classes of image files with the model of a run. Images of any "
        "size are brought to the model's: shorter side resized, centre cropped.",
    )
    parser.add_argument("run_folder", metavar="RUN", help="run folder, such as runs/vit_digits")
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="image file, or a folder to search for them"
    )
    parser.add_argument(
        "--top", type=int, default=5, metavar="K", help="classes to show (default: 5)"
    )
    parser.add_argument("--csv", metavar="FILE", help="also write the predictions as CSV")
    parser.add_argument(
        "--all", action="store_true", help="write the probabilities of all classes into it"
    )
    _add_evaluation_options(parser)
    parser.set_defaults(run=run_predict)


def run_predict(args: argparse.Namespace) -> None:
    """Run `predict` and print the predictions."""
    from jax_train import predict

    print(
        predict.predict_and_describe(
            args.run_folder,
            args.images,
            top=args.top,
            tta=args.tta,
            csv_path=args.csv,
            keep_all=args.all,
            overwrite=args.overwrite,
        )
    )


def add_evaluate(commands) -> None:
    """Add `evaluate`: all figures of a trained model on a split."""
    parser = commands.add_parser(
        "evaluate",
        help="evaluate a trained model on any split, class by class",
        description="Evaluate the model of a run: accuracy with its confidence interval, loss, "
        "precision, recall, F1, calibration, and a table by class.",
    )
    parser.add_argument("run_folder", metavar="RUN", help="run folder, such as runs/vit_digits")
    parser.add_argument(
        "--split", help="such as test or 'train[:1000]' (default: the run's test split)"
    )
    parser.add_argument(
        "--data",
        metavar="NAME",
        help="other data with the same classes, such as folder:PATH; its split 'test' by default",
    )
    parser.add_argument("--data_dir", help="TFDS folder of the data (default: where the run's is)")
    parser.add_argument("--csv", metavar="FILE", help="also write the table by class as CSV")
    _add_evaluation_options(parser)
    parser.set_defaults(run=run_evaluate)


def run_evaluate(args: argparse.Namespace) -> None:
    """Run `evaluate` and print the figures."""
    from jax_train import evaluate

    print(
        evaluate.evaluate_and_describe(
            args.run_folder,
            split=args.split,
            name=args.data,
            data_dir=args.data_dir,
            tta=args.tta,
            csv_path=args.csv,
            overwrite=args.overwrite,
        )
    )


def add_explain(commands) -> None:
    """Add `explain`: pictures of what a trained model looks at."""
    parser = commands.add_parser(
        "explain",
        help="draw what a trained model looks at: attention, feature maps, Grad-CAM",
        description="Draw where the model of a run looks, as PNG files: attention, positions and "
        "patches of a ViT; feature maps, filters and Grad-CAM of a CNN.",
    )
    parser.add_argument("run_folder", metavar="RUN", help="run folder, such as runs/vit_digits")
    parser.add_argument(
        "images",
        nargs="*",
        metavar="IMAGE",
        help="image file of any size, or a folder of them (default: test images of the run's data)",
    )
    parser.add_argument("--split", help="split of the run's data to take images of (default: test)")
    parser.add_argument(
        "--index",
        nargs="+",
        type=int,
        default=[],
        metavar="N",
        help="which images of the split, from 0 (default: one of each class, up to 4)",
    )
    parser.add_argument(
        "--stage", type=int, metavar="N", help="Grad-CAM of this stage only, from 1"
    )
    parser.add_argument("--out", metavar="FOLDER", help="where to write (default: RUN/explain)")
    parser.set_defaults(run=run_explain)


def run_explain(args: argparse.Namespace) -> None:
    """Run `explain` and print the files that were written."""
    from jax_train import pictures

    print(
        pictures.explain_and_describe(
            args.run_folder,
            args.images,
            split=args.split,
            index=args.index,
            out=args.out,
            stage=args.stage,
        )
    )


def add_report(commands) -> None:
    """Add `report`: a page on one run."""
    parser = commands.add_parser(
        "report",
        help="write a page on a run: how it learned, where it looks, where it fails",
        description="Write RUN/report.html, one file that opens anywhere without a network: "
        "curves, confusion matrix, worst mistakes, figures by class, attention and feature maps, "
        "config. Its pictures are also written into RUN/report.",
    )
    parser.add_argument("run_folder", metavar="RUN", help="run folder, such as runs/vit_digits")
    parser.set_defaults(run=run_report)


def run_report(args: argparse.Namespace) -> None:
    """Run `report` and say where the page is."""
    from jax_train import run_page

    print(run_page.report_and_describe(args.run_folder))


def add_compare(commands) -> None:
    """Add `compare`: runs on the same data, side by side."""
    parser = commands.add_parser(
        "compare",
        help="compare finished runs on the same data, in a table and on a page",
        description="Compare finished runs on the same test images: cost, speed, accuracy, where "
        "they disagree and where each looks. Writes FOLDER/comparison.html.",
    )
    parser.add_argument("run_folders", nargs="+", metavar="RUN", help="run folders, at least two")
    parser.add_argument(
        "--out", metavar="FOLDER", help="where to write (default: where the first run folder is)"
    )
    parser.set_defaults(run=run_compare)


def run_compare(args: argparse.Namespace) -> None:
    """Run `compare`, print the table and say where the page is."""
    from jax_train import compare_page

    print(compare_page.compare_and_describe(args.run_folders, args.out))


def _add_evaluation_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")
    parser.add_argument(
        "--tta",
        default="",
        metavar="VIEWS",
        help="test-time augmentation: average the probabilities over mirror images (flip), five "
        "shifted views (crops), or both (flip,crops)",
    )


COMMANDS = (
    add_prepare,
    add_convert,
    add_predict,
    add_evaluate,
    add_explain,
    add_report,
    add_compare,
)


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are paragraphs that fit the terminal."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message.rstrip('.')}. See {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return the exit code: 0, or 2 for what the user can put right."""
    parser = _Parser(prog="python -m jax_train", description="Commands around training.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for add in COMMANDS:
        add(commands)

    def parse_and_run():
        given = list(sys.argv[1:] if argv is None else argv)
        if given and not given[0].startswith("-") and given[0] not in commands.choices:
            raise UserError(f"{given[0]!r} is no command{nearest(given[0], commands.choices)}.")
        args, unknown = parser.parse_known_args(given)
        if unknown:  # told by the command, whose --help lists what it takes
            commands.choices[given[0]].error(f"unrecognized arguments: {' '.join(unknown)}")
        args.run(args)

    return run_command(parse_and_run)


if __name__ == "__main__":
    sys.exit(main())
