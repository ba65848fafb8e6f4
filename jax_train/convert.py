"""Weight files between PyTorch, safetensors and NumPy: the work behind `convert`.

The file is loaded into the Flax model and written from there, so that every converted file is
known to fit, and all three formats hold the same names: those of PyTorch's state dict.
"""

import ast
import os
import pickle
import re
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

import jax_models
from jax_models import torch_weights
from jax_train.errors import UserError

TORCH_ENDINGS = (".pt", ".pth", ".bin")
ENDINGS = (*TORCH_ENDINGS, ".safetensors", ".npz")
STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model")
CLASS_TOKEN = "class_random"  # what a source keeps beside its state dict
MOST_PROBLEMS = 4  # lines of each kind
LOOKS_ALIKE = 0.5  # share of common names; two different models share at most 0.14


def convert_and_describe(
    model_name: str, source: str | os.PathLike, target: str | os.PathLike, *,
    settings: Sequence[str] = (), overwrite: bool = False,
) -> str:  # fmt: skip
    """Convert a file of weights to the format its new name ends in.

    Args:
      model_name: a registered model.
      source: file to read, `.pt`, `.pth`, `.bin`, `.safetensors` or `.npz`.
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
    for option, path in (("--from", source), ("--to", target)):
        if path.suffix not in ENDINGS:
            raise UserError(
                f"{option} {path}: the format follows from the ending, and {path.suffix!r} is "
                f"none of {', '.join(ENDINGS)}. Give a file that ends in one of them."
            )
    if not source.is_file():
        raise UserError(f"--from {source}: there is no such file. Check the path.")
    if target.exists() and (target.is_dir() or not overwrite):
        cure = "it is a folder: choose" if target.is_dir() else "give --overwrite or choose"
        raise UserError(f"--to {target} exists already; {cure} another name.")
    model = build(model_name, parse_settings(settings))
    notes = _load(model, read(source), model_name, source)
    state = torch_weights.export(model)
    write(state, target)
    values = sum(array.size for array in state.values())
    written = f"{target}: {len(state)} tensors of {model_name}, {values:,} values."
    return "\n".join([*(f"note: {note}" for note in notes), written])


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


def read(path: Path) -> dict[str, Any]:
    """Return the tensors of a weight file by name; code in it is never run.

    Raises:
      UserError: the file is damaged, not of the format its ending says, or holds other things.
    """
    if path.suffix in TORCH_ENDINGS:
        state = _unwrap(_read_torch(path), path)
    elif path.suffix == ".npz":
        state = _read_npz(path)
    else:
        state = _read_safetensors(path)
    for name, value in state.items():
        if not isinstance(name, str) or not hasattr(value, "shape"):
            raise UserError(
                f"--from {path}: the entry {name!r} is {type(value).__name__}, not a tensor. "
                f"Save model.state_dict(), alone or under {' or '.join(STATE_DICT_KEYS)}."
            )
    return state


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


def _load(model, state: Mapping[str, Any], model_name: str, source: Path) -> list[str]:
    """Fill the model; return what `torch_weights.load` warns of."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch_weights.load(model, state)
        return [str(warning.message) for warning in caught]
    except (TypeError, RuntimeError) as error:
        raise UserError(
            f"--from {source}: a tensor in it is of a kind that cannot be read as an array: "
            f"{error} Save plain, dense tensors."
        ) from None
    except ValueError as error:
        _, *problems = str(error).splitlines()
        raise UserError(
            "\n".join([
                f"--from {source} does not fit --model {model_name} ({len(problems)} problems):",
                *_shortened(problems),
                _advice(model_name, list(state)),
            ])
        ) from None  # fmt: skip


def _shortened(problems: Sequence[str]) -> list[str]:
    """The first lines of each kind of problem; those that tell of sizes come first."""
    kinds = {}
    for line in problems:
        kinds.setdefault(line.split(":")[0].strip(), []).append(line)
    lines = []
    for kind in sorted(kinds, key=lambda kind: (kind != "misshapen", kind)):
        more = len(kinds[kind]) - MOST_PROBLEMS
        lines += kinds[kind][:MOST_PROBLEMS]
        lines += [f"  … and {more} more {kind}"] if more > 0 else []
    return lines


def _advice(model_name: str, names: Sequence[str]) -> str:
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


def _import_torch(place: str):
    try:
        import torch
    except ImportError:
        raise UserError(
            f"{place}: files that end in {', '.join(TORCH_ENDINGS)} need PyTorch, which "
            "is not installed. Install it (pip install torch) or use .safetensors or .npz."
        ) from None
    return torch


def _read_torch(path: Path) -> Any:
    torch = _import_torch(f"--from {path}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"--from {path}: not a file of tensors alone. It is damaged, no PyTorch file, or "
            "holds Python objects, which are not loaded because they could run code. Where it "
            "was made, load it and save model.state_dict() instead."
        ) from None
    except Exception as error:  # damage shows in many ways, from EOFError to RuntimeError
        raise _damaged(path, "PyTorch", error) from None


def _unwrap(loaded: Any, path: Path) -> dict[str, Any]:
    """The state dict in what `torch.load` gave, with the class token that stands beside it."""
    if not isinstance(loaded, Mapping):
        raise UserError(
            f"--from {path}: holds {type(loaded).__name__}, expected a state dict. "
            "Save model.state_dict()."
        )
    held = [loaded[key] for key in STATE_DICT_KEYS if isinstance(loaded.get(key), Mapping)]
    state = dict(held[0] if held else loaded)
    beside = state.pop(CLASS_TOKEN, loaded.get(CLASS_TOKEN))
    # DataParallel's `module.` is left out here, because the entry beside has none.
    if all(str(name).startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return state if beside is None else {CLASS_TOKEN: beside} | state


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    if not zipfile.is_zipfile(path):
        raise _damaged(path, "NumPy .npz", ValueError("not a zip archive"))
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        if "pickle" in str(error):  # NumPy's advice is to load it all the same
            error = ValueError("it holds Python objects, which could run code")
        raise _damaged(path, "NumPy .npz", error) from None


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise _damaged(path, "safetensors", error) from None


def _damaged(path: Path, kind: str, error: Exception) -> UserError:
    reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    return UserError(
        f"--from {path}: not a readable {kind} file ({reason}). It may be damaged, cut short or "
        "of another format than its ending says: fetch or save it again."
    )


def _save_torch(path: Path) -> Callable:
    torch = _import_torch(f"--to {path}")
    return lambda state, file: torch.save(
        {name: torch.from_numpy(array) for name, array in state.items()}, file
    )


def _save_safetensors(state, file) -> None:
    from safetensors.numpy import save

    file.write(save(dict(state), metadata={"format": "pt"}))


def _save_npz(state, file) -> None:
    np.savez(file, **state)


_SAVE = {".safetensors": _save_safetensors, ".npz": _save_npz}
