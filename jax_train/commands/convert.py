"""`python -m jax_train convert`: weights of files and runs to PyTorch, safetensors and NumPy.

The file is loaded into the Flax model and written from there, so that every converted file is
known to fit, and all three formats hold the same names: those of PyTorch's state dict.
"""

import argparse
import ast
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jax_train.commands.options import add_img_size, check_no_img_size
from jax_train.errors import UserError
from jax_train.files import check_output, json_text, write_both
from jax_train.printing import counted

HELP = "convert weights between PyTorch (.pt), .safetensors and .npz"
DESCRIPTION = (
    "Load a file of weights, or those of a run or a pretrained model, into a model, which proves "
    "that all of it fits, and write it in the format that the new name ends in: .pt, .pth, .bin, "
    ".ckpt or .pth.tar (PyTorch), .safetensors or .npz (NumPy). Code in PyTorch files is never run."
)
MOST_PROBLEMS = 4  # lines of each kind
LOOKS_ALIKE = 0.5  # share of common names; two different models share at most 0.14
_OF_ANOTHER_MODEL = {"missing", "unexpected", "misshapen"}  # kinds of problems


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    add = parser.add_argument
    add("--model", metavar="NAME", help="name of the model; a run folder says it by itself")
    source = "weights to read, a run folder such as runs/vit_digits, or a pretrained model: "
    source += "hf:ORG/NAME, timm/NAME.TAG, a folder of transformers or timm"
    add("--from", required=True, type=Path, metavar="FILE", dest="source", help=source)
    add("--to", required=True, type=Path, metavar="FILE", dest="target", help="file to write")
    keyword = "a constructor keyword of the model that is not the default, such as num_classes=10"
    add(
        "--set", action="append", default=[], metavar="KEYWORD=VALUE", dest="settings",
        help=f"{keyword}; may be repeated",
    )  # fmt: skip
    layout = "names to write: timm, torchvision or huggingface (default: those of the mirror)"
    add("--layout", metavar="NAME", help=layout)
    adapter = "of a run with lora_rank: its adapters and head alone, as PEFT keeps them; --to is "
    adapter += "FOLDER/adapter_model.safetensors, and adapter_config.json comes beside it"
    add("--adapter", action="store_true", help=adapter)
    add_img_size(parser)
    add("--overwrite", action="store_true", help="replace the file if it exists")


def run(args: argparse.Namespace) -> str:
    """Convert; return a line that says what was written, after notes on what was left out.

    Raises:
      UserError: a file, the model or a setting is not what it should be, or the weights do not
        fit the model; nothing is written.
    """
    from jax_models import torch_weights
    from jax_train.machine import runtime

    runtime.check_devices()
    target = args.target
    _asked("--to", torch_weights.files.check_ending, target)
    beside = _check_adapter(args) if args.adapter else None
    model_name, model, notes = _opened(args)
    export = torch_weights.export_adapter if beside else torch_weights.export
    option = f"--from {args.source}:" if beside else "--to"
    state = _asked(option, export, model, args.layout)
    state, described = state if beside else (state, None)
    try:
        if beside:
            text = json_text(described, indent=2)
            write_both(beside, text, lambda: torch_weights.files.write(state, target))
        else:
            torch_weights.files.write(state, target)
    except ImportError as error:
        raise UserError(f"--to {error}") from None
    except (OSError, RuntimeError) as error:
        cure = "Check that the folder is yours to write to and has room."
        raise UserError(f"--to {target}: cannot be written: {error}. {cure}") from error
    values = sum(array.size for array in state.values())
    written = (
        f"{target}: {counted(len(state), 'tensor')} of {model_name}, {counted(values, 'value')}."
    )
    return "\n".join([*(f"note: {note}" for note in notes), written])


def _check_adapter(args: argparse.Namespace) -> Path:
    """Where the config of the adapters goes; refuses what has none."""
    from jax_models.torch_weights import adapter

    if args.target.name != adapter.FILE:
        raise UserError(f"--to {args.target}: with --adapter expected FOLDER/{adapter.FILE}.")
    if args.source.is_file() or not (args.source / "config.json").is_file():
        raise UserError(f"--from {args.source}: with --adapter expected a run with lora_rank.")
    beside = args.target.with_name(adapter.CONFIG)
    check_output("--to", beside, args.overwrite)
    return beside


def _asked(option: str, check: Callable[..., Any], *args: Any) -> Any:
    """What a function of `jax_models` gives; its errors get the option in front."""
    try:
        return check(*args)
    except (OSError, ImportError, ValueError) as error:
        raise UserError(f"{option} {error}") from None


def _opened(args: argparse.Namespace) -> tuple[str, Any, list[str]]:
    """The name of the model, the model with the weights of the source, and notes."""
    from jax_models import torch_weights
    from jax_train.runs import pretrained

    name, source = args.model, args.source
    # At its own size a file goes by --model and --set alone, which say more than can be read off.
    at_other_size = args.img_size is not None
    is_pretrained = pretrained.is_source(source) and (at_other_size or not source.is_file())
    is_run = not is_pretrained and (source / "config.json").is_file()
    if not is_run and not is_pretrained:
        _asked("--from", torch_weights.files.check_source, source)
        if name is None:
            says = "is a file of weights: say of which model, such as --model vit."
            raise UserError(f"--from {source} {says}")
    check_output("--to", args.target, args.overwrite)
    if is_pretrained:
        return _load_pretrained(args)
    if is_run:
        check_no_img_size(source, args.img_size)
        return *_open_run(name, source, args.settings, args.adapter), []
    model = build(name, parse_settings(args.settings))
    return name, model, _load(model, name, source)


def _open_run(model_name: str | None, folder: Path, settings, adapters: bool) -> tuple[str, Any]:
    """The name of a run's model, and the model with the weights that the run reports."""
    from jax_train.runs import trained

    run = trained.open_run(folder)
    if model_name not in (None, run.config.model.name) or settings:
        raise UserError(
            f"--from {folder} is a run of {run.config.model.name}, with its settings in "
            "config.json: leave --model and --set out."
        )
    return run.config.model.name, run.as_trained if adapters else run.model


def _load_pretrained(args: argparse.Namespace) -> tuple[str, Any, list[str]]:
    """The name of a pretrained model, the model, and notes on it."""
    from jax_train.runs import pretrained

    source, settings = args.source, parse_settings(args.settings)
    if not source.is_file() and (args.model is not None or settings):
        raise UserError(f"--from {source} says its model by itself: leave --model and --set out.")
    if args.model is not None:
        _check_keywords(args.model, settings)
    loaded = pretrained.load(source, args.model, settings, img_size=args.img_size)
    return loaded.name, loaded.model, list(loaded.notes)


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """Read 'KEYWORD=VALUE' strings whose values are Python literals.

    Raises:
      UserError: one has no '=', is no literal, or repeats a keyword.
    """
    parsed: dict[str, Any] = {}
    for text in settings:
        key, equals, value = text.partition("=")
        if not equals or not key.isidentifier():
            expected = "expected KEYWORD=VALUE without spaces, for example num_classes=10."
            raise UserError(f"--set {text}: {expected}")
        if key in parsed:
            raise UserError(f"--set {text}: {key} was set before, to {parsed[key]!r}. Set it once.")
        try:
            parsed[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            raise UserError(
                f"--set {text}: {value!r} is no number, tuple, True, False or None. "
                "Quote tuples for the shell: --set 'head_dims=(512,)'."
            ) from None
    return parsed


def build(model_name: str, settings: Mapping[str, Any]) -> Any:
    """Return the model with shapes and no values.

    Raises:
      UserError: unknown model or setting, or a value the model cannot be built with.
    """
    from jax_models import registry

    _check_keywords(model_name, settings)
    try:
        return registry.abstract_model(model_name, **settings)
    except (ValueError, TypeError, OverflowError) as error:
        given = " ".join(f"--set {key}={value!r}" for key, value in settings.items())
        raise UserError(
            f"--model {model_name} {given}: {error} Put the settings right and convert again."
        ) from None


def _check_keywords(model_name: str, settings: Mapping[str, Any]) -> None:
    """Raise a UserError unless there is a model of that name with those keywords."""
    import jax_models

    keywords = _asked(f"--model {model_name}:", jax_models.model_keywords, model_name)
    for key in settings:
        if key not in keywords:
            takes = f"It takes: {', '.join(keywords)}."
            raise UserError(f"--set {key}: {model_name} has no keyword of that name. {takes}")


def _load(model, model_name: str, source: Path) -> list[str]:
    """Fill the model; return what reading the file and `torch_weights.load` warn of."""
    from jax_models import torch_weights

    beside = torch_weights.names(model, beside=True)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            state = _asked("--from", torch_weights.files.read, source, beside)
            torch_weights.load(model, state)
        return [str(warning.message) for warning in caught]
    except torch_weights.Misfit as misfit:
        problems = misfit.problems
    lines = [
        f"--from {source} does not fit --model {model_name} ({counted(len(problems), 'problem')}):"
    ]
    advice = _advice(model_name, list(state), {problem.kind for problem in problems})
    raise UserError("\n".join([*lines, *_shortened(problems), advice]))


def _shortened(problems: Sequence[Any]) -> list[str]:
    """The first lines of each kind of problem; those that tell of sizes come first."""
    lines = []
    for kind in sorted({p.kind for p in problems}, key=lambda kind: (kind != "misshapen", kind)):
        alike = [f"  {problem}" for problem in problems if problem.kind == kind]
        more = len(alike) - MOST_PROBLEMS
        lines += alike[:MOST_PROBLEMS] + [f"  … and {more} more {kind}"] * (more > 0)
    return lines


def _advice(model_name: str, names: Sequence[str], kinds: set[str]) -> str:
    import jax_models

    if not kinds & _OF_ANOTHER_MODEL:
        return (
            "The names and shapes are right; these values are not. Save plain, dense tensors of "
            "floating-point numbers; where a training run broke down, train again from before."
        )
    other = looks_like(names)
    if other not in (None, jax_models.family(model_name)):
        models = ", ".join(jax_models.list_families()[other])
        one_of = "one of " if "," in models else ""
        return f"The file looks like a {other} checkpoint: use --model {one_of}{models}."
    defaults = jax_models.model_keywords(model_name).items()
    keywords = ", ".join(f"{key}={value!r}" for key, value in defaults)
    return (
        "Another --model, or sizes other than the defaults, given with --set KEYWORD=VALUE, may "
        f"fit. {model_name} takes: {keywords}."
    )


def looks_like(names: Sequence[str]) -> str | None:
    """Return the family that shares most names with a file; None where that is less than half."""
    import jax_models
    from jax_models import torch_weights

    given = _without_numbers(names)
    shares = {}
    for family, (model_name, *_) in jax_models.list_families().items():
        # A block is enough, and a tenth of the time: numbers do not count.
        keywords = jax_models.model_keywords(model_name)
        shallow: dict[str, Any] = {"depth": 1} if "depth" in keywords else {}
        if "depths" in keywords:
            shallow = {"depths": (1,) * len(keywords["depths"])}
        wanted = _without_numbers(torch_weights.names(build(model_name, shallow)))
        shares[family] = len(given & wanted) / len(given | wanted)
    best = max(shares, key=lambda family: shares[family])
    return best if shares[best] >= LOOKS_ALIKE else None


def _without_numbers(names: Sequence[str]) -> set[str]:
    return {re.sub(r"\d+", "0", name) for name in names}  # all that another depth changes
