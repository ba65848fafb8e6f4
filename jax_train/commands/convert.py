"""Weights of files and runs to PyTorch, safetensors and NumPy: the work behind `convert`.

The file is loaded into the Flax model and written from there, so that every converted file is
known to fit, and all three formats hold the same names: those of PyTorch's state dict.
"""

import argparse
import ast
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

import jax_models
from jax_models import torch_weights
from jax_models.torch_weights import files as weight_files
from jax_models.torch_weights.files import ENDINGS, TORCH_ENDINGS
from jax_train.errors import UserError

MOST_PROBLEMS = 4  # lines of each kind


_OF_ANOTHER_MODEL = {"missing", "unexpected", "misshapen"}  # kinds of problems


LOOKS_ALIKE = 0.5  # share of common names; two different models share at most 0.14


def convert_and_describe(
    model_name: str | None, source: str | os.PathLike, target: str | os.PathLike, *,
    settings: Sequence[str] = (), overwrite: bool = False,
) -> str:  # fmt: skip
    """Convert a file of weights, or those a run reports, to the format the new name ends in.

    Args:
      model_name: a registered model; a run knows its own.
      source: file to read, `.pt`, `.pth`, `.bin`, `.safetensors` or `.npz`, or a run folder.
      target: file to write, ending likewise; it appears when it is complete.
      settings: 'KEYWORD=VALUE' for constructor keywords of the model that are not the default.
      overwrite: replace `target` where it exists.

    Returns:
      A line that says what was written, after notes on what was left out.

    Raises:
      UserError: a file, the model or a setting is not what it should be, or the weights do not
        fit the model; nothing is written.
    """
    source, target = Path(source), Path(target)
    is_run = (source / "config.json").is_file()
    _check_ending("--to", target)
    if not is_run:
        _check_source(model_name, source)
    if target.exists() and (target.is_dir() or not overwrite):
        cure = "it is a folder: choose" if target.is_dir() else "give --overwrite or choose"
        raise UserError(f"--to {target} exists already; {cure} another name.")
    if is_run:
        model_name, model = _open_run(model_name, source, settings)
        notes = []
    else:
        model = build(model_name, parse_settings(settings))
        notes = _load(model, _read(source), model_name, source)
    state = torch_weights.export(model)
    write(state, target)
    values = sum(array.size for array in state.values())
    written = f"{target}: {len(state)} tensors of {model_name}, {values:,} values."
    return "\n".join([*(f"note: {note}" for note in notes), written])


def _check_ending(option: str, path: Path) -> None:
    if path.suffix not in ENDINGS:
        raise UserError(
            f"{option} {path}: the format follows from the ending, and {path.suffix!r} is "
            f"none of {', '.join(ENDINGS)}. Give a file that ends in one of them."
        )


def _check_source(model_name: str | None, source: Path) -> None:
    _check_ending("--from", source)
    try:
        weight_files.check_is_file(source)
    except (OSError, ValueError) as error:
        raise UserError(f"--from {error}") from None
    if model_name is None:
        raise UserError(
            f"--from {source} is a file of weights: say of which model, such as --model vit."
        )


def _open_run(model_name: str | None, folder: Path, settings) -> tuple[str, nnx.Module]:
    """The name of a run's model, and the model with the weights that the run reports."""
    from jax_train.runs import trained

    run = trained.open_run(folder)
    if model_name not in (None, run.config.model.name) or settings:
        raise UserError(
            f"--from {folder} is a run of {run.config.model.name}, with its settings in "
            "config.json: leave --model and --set out."
        )
    return run.config.model.name, run.model


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """Read 'KEYWORD=VALUE' strings whose values are Python literals.

    Raises:
      UserError: one has no '=', is no literal, or repeats a keyword.
    """
    parsed = {}
    for text in settings:
        key, equals, value = text.partition("=")
        if not equals or not key.isidentifier():
            raise UserError(
                f"--set {text}: expected KEYWORD=VALUE without spaces, for example num_classes=10."
            )
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


def build(model_name: str, settings: Mapping[str, Any]) -> nnx.Module:
    """Return the model with shapes and no values.

    Raises:
      UserError: unknown model or setting, or a value the model cannot be built with.
    """
    try:
        keywords = jax_models.model_keywords(model_name)
    except ValueError as error:
        raise UserError(f"--model {model_name}: {error}") from None
    for key in settings:
        if key not in keywords:
            raise UserError(
                f"--set {key}: {model_name} has no keyword of that name. It takes: "
                f"{', '.join(keywords)}."
            )
    try:
        return nnx.eval_shape(
            lambda: jax_models.create_model(model_name, rngs=nnx.Rngs(0), **settings)
        )
    except (ValueError, TypeError, OverflowError) as error:
        given = " ".join(f"--set {key}={value!r}" for key, value in settings.items())
        raise UserError(
            f"--model {model_name} {given}: {error} Put the settings right and convert again."
        ) from None


def write(state: Mapping[str, np.ndarray], path: Path) -> None:
    """Write tensors to a file, under a temporary name until it is complete.

    Raises:
      UserError: the folder is missing or the file cannot be written.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    save = _save_torch(path) if path.suffix in TORCH_ENDINGS else _SAVE[path.suffix]
    try:
        with open(temporary, "wb") as file:
            save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        raise UserError(
            f"--to {path}: cannot be written: {error}. Check that the folder exists, is yours to "
            "write to and has room."
        ) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _read(source: Path) -> dict[str, Any]:
    try:
        return weight_files.read(source)
    except (OSError, ImportError, ValueError) as error:
        raise UserError(f"--from {error}") from None


def _load(model, state: Mapping[str, Any], model_name: str, source: Path) -> list[str]:
    """Fill the model; return what `torch_weights.load` warns of."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch_weights.load(model, state)
        return [str(warning.message) for warning in caught]
    except ValueError as error:
        _, *problems = str(error).splitlines()
        raise UserError(
            "\n".join([
                f"--from {source} does not fit --model {model_name} ({len(problems)} problems):",
                *_shortened(problems),
                _advice(model_name, list(state), {_kind(line) for line in problems}),
            ])
        ) from None  # fmt: skip


def _shortened(problems: Sequence[str]) -> list[str]:
    """The first lines of each kind of problem; those that tell of sizes come first."""
    kinds = {}
    for line in problems:
        kinds.setdefault(_kind(line), []).append(line)
    lines = []
    for kind in sorted(kinds, key=lambda kind: (kind != "misshapen", kind)):
        more = len(kinds[kind]) - MOST_PROBLEMS
        lines += kinds[kind][:MOST_PROBLEMS]
        lines += [f"  … and {more} more {kind}"] if more > 0 else []
    return lines


def _kind(problem: str) -> str:
    return problem.split(":")[0].strip()


def _advice(model_name: str, names: Sequence[str], kinds: set[str]) -> str:
    if not kinds & _OF_ANOTHER_MODEL:
        return (
            "The names and shapes are right; these values are not. Save plain, dense tensors of "
            "floating-point numbers; where a training run broke down, train again from before."
        )
    other = looks_like(names)
    if other not in (None, model_name):
        return f"The file looks like a {other} checkpoint: use --model {other}."
    defaults = jax_models.model_keywords(model_name).items()
    keywords = ", ".join(f"{key}={value!r}" for key, value in defaults)
    return (
        "Another --model, or sizes other than the defaults, given with --set KEYWORD=VALUE, may "
        f"fit. {model_name} takes: {keywords}."
    )


def looks_like(names: Sequence[str]) -> str | None:
    """Return the model that shares most names with a file; None where that is less than half."""
    given = _without_numbers(names)
    shares = {}
    for model_name in jax_models.list_models():
        wanted = _without_numbers(_state_names(model_name))
        shares[model_name] = len(given & wanted) / len(given | wanted)
    best = max(shares, key=shares.get)
    return best if shares[best] >= LOOKS_ALIKE else None


def _without_numbers(names: Sequence[str]) -> set[str]:
    # A file of another depth differs in numbers alone; `module.` is DataParallel's.
    return {re.sub(r"\d+", "0", name.removeprefix("module.")) for name in names}


def _state_names(model_name: str) -> list[str]:
    """The names in a model's state dict: those that an empty one is said to miss."""
    try:
        torch_weights.load(build(model_name, {}), {})
    except ValueError as error:
        return [line.split()[1] for line in str(error).splitlines()[1:]]
    return []


def _save_torch(path: Path) -> Callable:
    try:
        torch = weight_files.import_torch(path)
    except ImportError as error:
        raise UserError(f"--to {error}") from None
    return lambda state, file: torch.save(
        {name: torch.from_numpy(array) for name, array in state.items()}, file
    )


def _save_safetensors(state, file) -> None:
    from safetensors.numpy import save

    file.write(save(dict(state), metadata={"format": "pt"}))


def _save_npz(state, file) -> None:
    np.savez(file, **state)


_SAVE = {".safetensors": _save_safetensors, ".npz": _save_npz}


HELP = "convert weights between PyTorch (.pt), .safetensors and .npz"
DESCRIPTION = (
    "Load a file of weights, or those of a run, into a model, which proves that all of it fits, "
    "and write it in the format that the new name ends in: .pt, .pth or .bin (PyTorch), "
    ".safetensors or .npz (NumPy). Code in a .pt file is never run."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the model, the files and the settings."""
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


def run(args: argparse.Namespace) -> str:
    """Run `convert`; return what was written."""
    return convert_and_describe(
        args.model,
        args.source,
        args.target,
        settings=args.settings,
        overwrite=args.overwrite,
    )
