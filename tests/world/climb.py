"""Measure how far this project's models are from those of other libraries, on their own files.

  JAX_ENABLE_X64=1 python -m tests.world.climb --out errors.json [--only REGEX] [--broken]

float64 is a setting of the whole process, see `measure`. Run in an environment with the libraries.
"""

import argparse
import copy
import json
import re
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
from flax import nnx
from torch.nn import functional

import jax_models
from jax_models import torch_weights
from jax_models.cpu import onednn
from jax_train.engine import metrics
from tests.parity.cases import as_dtype
from tests.parity.ladder import draws, gradient_error
from tests.world import of_originals, of_timm, of_torchvision, of_transformers
from tests.world.case import Case, to_torch, with_gradients


def cases() -> Iterator[Case]:
    """All models of all libraries."""
    for library in (of_timm, of_transformers, of_torchvision, of_originals):
        yield from library.cases()


class Both:
    """A library's model and this project's, loaded from what the library wrote.

    Args:
      case: the library's.
      folder: to write into.
      mutate: changes this project's model after it was loaded.
    """

    def __init__(self, case: Case, folder: Path, mutate: Callable = lambda model: None):
        self.case, self.folder = case, folder
        self.source = case.save(case.model, folder / "theirs")
        self.theirs = copy.deepcopy(case.model)
        self.dtype = np.float32
        self.mutate = mutate
        if jax.config.jax_enable_x64:
            self.theirs.double()
            self.dtype = np.float64
        self.ours = self.load()
        self.random = np.random.default_rng(case.side)

    def load(self, **more) -> nnx.Module:
        """The model of the library's file."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is left out knowingly
            loaded = jax_models.load_pretrained(self.source, **self.case.settings, **more)
            as_dtype(loaded.model, self.dtype)
            if self.dtype == np.float64 and not more:  # it holds sums made of weights on the way
                torch_weights.load(loaded.model, self._state(self.source))
        self.mutate(loaded.model)
        return loaded.model

    def images(self, side: int) -> np.ndarray:
        """Random images [B,S,S,3]."""
        return self.random.normal(size=(self.case.batch, side, side, 3)).astype(self.dtype)

    def as_ours(self, theirs: torch.nn.Module, gradients: bool = False) -> dict:
        """What a library's model holds, by this project's paths: weights, or their gradients."""
        shutil.rmtree(self.folder / "state", ignore_errors=True)
        path = self.case.save(theirs, self.folder / "state")
        state = self._state(path)
        for end in self.case.unlike if gradients else ():
            for name in state:
                if name.endswith(end):
                    state[name] = np.array(state[name])
                    state[name][:, :1] = 0
        model = nnx.clone(self.ours)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch_weights.load(model, state)
        return _flat(nnx.state(model))

    def _state(self, path: Path) -> dict[str, torch.Tensor]:
        """The tensors of a folder or file, by names that this project knows."""
        parts = path.glob("*.safetensors") if path.is_dir() else [path]
        state = {k: value for part in parts for k, value in torch_weights.files.read(part).items()}
        for old, new in self.case.renamed.items():
            state = {name.replace(old, new): value for name, value in state.items()}
        return state


def _flat(state) -> dict:
    return {path: np.asarray(v.get_value()) for path, v in nnx.to_flat_state(state)}


def evaluation(both: Both) -> Iterator[tuple[str, float]]:
    """Logits, features, attention, and logits of another image size."""
    case = both.case
    images = both.images(case.side)
    run = jax.jit(lambda model, x: (model(x), *model(x, return_intermediates=True)))
    plain, logits, out = run(both.ours, images)
    with torch.no_grad():
        theirs = case.run(both.theirs, to_torch(images))
    yield "logits", largest(plain, theirs.logits)
    yield "logits", largest(logits, theirs.logits)
    yield "last features", relative(out["features"][-1], theirs.features)
    for ours, of_theirs in zip(out["attention"], theirs.attention, strict=True):
        yield "attention", largest(ours, of_theirs)
    if hasattr(both.theirs, "forward_head"):  # timm's
        ours = jax.jit(lambda model, x: (model.forward_features(x), model.pooled_features(x)))
        with torch.no_grad():
            last = both.theirs.forward_features(to_torch(images))
            theirs = last, both.theirs.forward_head(last, pre_logits=True)
        for found, expected in zip(ours(both.ours, images), theirs, strict=True):
            yield "last features", relative(found, expected)
    images = both.images(case.other_side)
    resized = both.load(img_size=case.other_side) if out["attention"] else both.ours
    with torch.no_grad():
        theirs = case.at(both.theirs, both.folder / "theirs", case.other_side)(to_torch(images))
    yield "other size", largest(jax.jit(lambda model, x: model(x))(resized, images), theirs)


def training(both: Both) -> Iterator[tuple[str, float]]:
    """One pass in training mode: logits, all gradients of the cross-entropy, batch norm."""
    graphdef, *state = nnx.split(both.ours, nnx.Param, ...)
    params, stats = map(nnx.to_pure_dict, state)

    @jax.jit
    def run(params, images, labels):
        def loss(params):
            model = nnx.merge(graphdef, params, stats)
            logits = model(images, train=True)
            after = nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.Param)))
            return metrics.cross_entropy(logits, labels).mean(), (logits, after)

        return jax.grad(loss, has_aux=True)(params)

    errors = []
    for _ in range(draws()):
        images = both.images(both.case.side)
        theirs = copy.deepcopy(both.theirs).train()
        their_logits = both.case.run(theirs, to_torch(images)).logits
        labels = both.random.integers(0, their_logits.shape[1], len(images))
        functional.cross_entropy(their_logits, torch.from_numpy(labels)).backward()
        grads, (logits, after) = run(params, images, labels)
        yield "training logits", relative(logits, their_logits)
        found = nnx.merge(graphdef, grads, after)
        ours = _flat(nnx.state(found, nnx.Param))
        of_theirs = with_gradients(theirs, copy.deepcopy(both.theirs))
        held = both.as_ours(of_theirs, gradients=True)
        errors.append(gradient_error(ours, {path: held[path] for path in ours}))
        if ours := _flat(nnx.state(found, nnx.Not(nnx.Param))):
            held = both.as_ours(theirs)
            yield "batch norm", max(float(np.abs(held[path] - v).max()) for path, v in ours.items())
    yield "gradients", min(errors)


def round_trip(both: Both) -> Iterator[tuple[str, float]]:
    """The library loads what this project writes, strictly, and computes the same bits."""
    case = both.case
    if case.layout is None or both.dtype != np.float32:
        return
    folder = both.folder / "ours"
    shutil.copytree(both.folder / "theirs", folder)
    for path in (*folder.glob("*.safetensors*"), *folder.glob("*.pth"), *folder.glob("*.bin")):
        path.unlink()
    torch_weights.save_safetensors(both.ours, folder / "model.safetensors", layout=case.layout)
    again = case.reload(folder)
    images = to_torch(both.images(case.side))
    with torch.no_grad():
        before, after = (case.run(model, images).logits for model in (both.theirs, again))
    yield "round trip", float((before - after).abs().max())
    ours, theirs = both.as_ours(again), both.as_ours(both.theirs)
    yield "round trip", max(float(np.abs(ours[path] - theirs[path]).max()) for path in ours)


def largest(ours, theirs: torch.Tensor) -> float:
    """Largest absolute difference."""
    ours, theirs = np.asarray(ours), theirs.detach().numpy()
    if ours.shape != theirs.shape:
        raise ValueError(f"shapes differ: {ours.shape} and {theirs.shape}")
    return float(np.abs(ours - theirs).max())


def relative(ours, theirs: torch.Tensor) -> float:
    """Largest difference; where values are above 1, as a share of the largest."""
    theirs = theirs.permute(0, 2, 3, 1) if theirs.ndim == 4 else theirs
    return largest(ours, theirs) / max(1.0, float(theirs.detach().abs().max()))


MEASURES = (evaluation, training, round_trip)


def climb(
    case: Case, mutate: Callable = lambda model: None, measures: Iterable[Callable] = MEASURES
) -> dict[str, float]:
    """The largest error on each rung of some measures; `mutate` changes this project's model."""
    errors: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        both = Both(case, Path(folder), mutate)
        for measure in measures:
            for rung, error in measure(both):
                # A NaN must not get lost in a maximum.
                errors[rung] = max(errors.get(rung, 0.0), error if error == error else np.inf)
    return errors


def rows(only: str = "") -> Iterator[dict[str, Any]]:
    """The rows of the table, those whose LIBRARY NAME a regular expression is found in."""
    from tests.world import fine_tuned

    for case in cases():
        if re.search(only, f"{case.library} {case.name}"):
            errors = climb(case)
            in_float32 = case.in_float32 if "attention" in errors else ()
            row = {"library": case.library, "name": case.name, "in_float32": in_float32}
            yield row | {"errors": errors}
    for tuned in fine_tuned.RUNS:
        if re.search(only, f"{tuned.library_name} {tuned.label}"):
            for name, errors in fine_tuned.climb(tuned):
                row = {"library": tuned.library_name, "name": name, "in_float32": ()}
                yield row | {"errors": errors}


def main() -> None:
    """Measure in the precision of this process and write the figures."""
    from tests.world.broken import measure_broken

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="", help="regular expression of LIBRARY NAME")
    parser.add_argument("--broken", action="store_true", help="also measure broken models")
    args = parser.parse_args()
    torch.set_num_threads(1)
    onednn.LEAST_FLOPS = 0  # so that small models meet oneDNN too
    result = {"errors": [], "broken": {}}
    with torch.backends.mkldnn.flags(enabled=False):  # see tests/parity/ladder.py
        began = time.perf_counter()
        for row in rows(args.only):
            result["errors"].append(row)
            told = ", ".join(f"{rung} {error:.0e}" for rung, error in row["errors"].items())
            took, began = time.perf_counter() - began, time.perf_counter()
            print(f"{row['library']} {row['name']}: {told} ({took:.0f} s)", flush=True)
            args.out.write_text(json.dumps(result, indent=2))
        if args.broken:
            result["broken"] = measure_broken()
            args.out.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
