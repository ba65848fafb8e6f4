"""Short runs of the recipes that are too long for a CPU, beside the mirror's, on real images.

python -m tests.parity.curves [--data_dir FOLDER] [--runs NAME ...]

Model and mirror start from the same weights and see the same augmented images in the same order
under the same schedule, which is the recipe's own, cut to the given number of images and epochs.
Each side draws its own dropout masks. Writes a picture and a table for docs/parity.md.
"""

import argparse
import functools
import importlib
import json
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import torch
from flax import nnx
from torch.nn import functional

import torch_ref
from jax_models import torch_weights
from jax_train import data
from jax_train.data import Splits
from jax_train.engine import seeds, steps
from jax_train.engine.program import Program
from jax_train.engine.recipe import resolve
from jax_train.engine.state import init_state
from tests.parity.cases import to_torch
from tests.parity.training import torch_optimizer

ROOT = Path(__file__).resolve().parents[2]
PICTURE = ROOT / "docs" / "images" / "parity_curves.png"
FIGURES = ROOT / "docs" / "images" / "parity_curves.json"
TEST_IMAGES = 1000


@dataclass(frozen=True)
class Run:
    """A recipe cut to what a CPU does in minutes; `batch_size` None is the recipe's own."""

    recipe: str
    images: int
    epochs: int
    batch_size: int | None = None


# deep_vit with 24 blocks in its own batches of 256 takes 7 GB; 64 will do to compare.
RUNS = {
    "vit": Run("vit_cifar10", 6400, 4),
    "simple_cnn": Run("cnn_cifar10", 6400, 3),
    "attention_cnn": Run("attention_cnn_cifar10", 1500, 4),
    "deep_vit": Run("deep_vit_cifar100", 1536, 3, 64),
    "deep_vit (6 blocks)": Run("deep_vit_cifar10", 5120, 4),
    "mlp_head_vit": Run("mlp_head_vit_cifar100", 3200, 3),
}


def prepare(run: Run, data_dir: str | None) -> tuple[Program, Splits]:
    """What the engine computes of a cut recipe, and its data."""
    config = importlib.import_module(f"configs.{run.recipe}").get_config()
    config.data.train_split = f"train[:{run.images}]"
    config.data.val_split, config.data.test_split = "", f"test[:{TEST_IMAGES}]"
    config.train.epochs = run.epochs
    config.train.batch_size = run.batch_size or config.train.batch_size

    def load(split):
        return data.load(config.data.name, split, data_dir)

    splits = Splits(load(config.data.train_split), None, load(config.data.test_split))
    return Program(resolve(config, splits), splits.train), splits


class Ours:
    """The Flax model under the engine's own step."""

    def __init__(self, program: Program, mirror: torch.nn.Module):
        self.recipe = program.recipe
        model = nnx.merge(self.recipe.graphdef, *program.start().state.reported)
        torch_weights.load(model, mirror.state_dict())
        self.state = init_state(model, self.recipe.optimizer)
        self.step = jax.jit(functools.partial(self._step, self.recipe), donate_argnums=0)
        self.forward = jax.jit(functools.partial(self._forward, self.recipe))

    @staticmethod
    def _step(recipe, state, images, labels):
        places = np.arange(recipe.batch_size)
        keys = seeds.keys_at(recipe.seed, seeds.DROPOUT, state.step, places)
        grads, stats, sums = steps.gradients(
            recipe, state.params, state.stats, images, labels, keys
        )
        return steps.update(recipe, state, grads, stats), sums

    @staticmethod
    def _forward(recipe, state, images):
        return nnx.merge(recipe.graphdef, state.params, state.stats)(images)

    def train(self, images, labels) -> float:
        """One step; the mean loss."""
        self.state, sums = self.step(self.state, images, labels)
        return float(sums.loss) / len(labels)

    def logits(self, images) -> np.ndarray:
        """In evaluation mode."""
        return np.asarray(self.forward(self.state, images))


class Theirs:
    """The mirror under PyTorch's optimizer and schedule."""

    def __init__(self, program: Program, mirror: torch.nn.Module):
        self.mirror, self.smoothing = mirror, program.config.train.label_smoothing
        self.per_epoch, self.done = program.steps_per_epoch, 0
        self.optimizer, self.schedule, self.by_epoch = torch_optimizer(
            program.config, mirror.parameters(), program.steps_per_epoch
        )

    def train(self, images, labels) -> float:
        """One step; the mean loss."""
        self.mirror.train()
        self.optimizer.zero_grad()
        loss = functional.cross_entropy(
            self.mirror(to_torch(np.asarray(images))),
            torch.from_numpy(labels).long(),
            label_smoothing=self.smoothing,
        )
        loss.backward()
        self.optimizer.step()
        self.done += 1
        if not self.by_epoch or self.done % self.per_epoch == 0:
            self.schedule.step()
        return loss.item()

    @torch.no_grad()
    def logits(self, images) -> np.ndarray:
        """In evaluation mode."""
        return self.mirror.eval()(to_torch(np.asarray(images))).numpy()


def compare(run: Run, data_dir: str | None) -> dict:
    """Train both; losses of every step and test accuracy of every epoch."""
    program, splits = prepare(run, data_dir)
    config, recipe = program.config, program.recipe
    torch.manual_seed(config.seed)
    settings = {k: v for k, v in config.model.items() if k != "name" and v is not None}
    mirror = torch_ref.create_model(config.model.name, **settings)
    sides = {"JAX": Ours(program, mirror), "PyTorch": Theirs(program, mirror)}
    augment = jax.jit(
        lambda images, step: recipe.augmentation.train(
            images,
            None,
            seeds.keys_at(recipe.seed, seeds.AUGMENT, step, np.arange(recipe.batch_size)),
        )[0]
    )
    evaluated = jax.jit(recipe.augmentation.evaluate)
    train_set, test_set = splits.train, splits.test
    out = {name: {"loss": [], "top1": [], "seconds": 0.0} for name in sides}
    for epoch in range(run.epochs):
        order = np.asarray(steps.epoch_order(recipe, epoch, len(train_set)))[:, 0]
        for i, index in enumerate(order):
            images = augment(train_set.images[index], epoch * len(order) + i)
            for name, side in sides.items():
                begin = time.monotonic()
                out[name]["loss"].append(side.train(images, train_set.labels[index]))
                out[name]["seconds"] += time.monotonic() - begin
        for name, side in sides.items():
            right = 0
            for start in range(0, len(test_set), 100):
                part = slice(start, start + 100)
                logits = side.logits(evaluated(test_set.images[part]))
                right += int((logits.argmax(-1) == test_set.labels[part]).sum())
            out[name]["top1"].append(right / len(test_set))
        print(config.model.name, epoch + 1, {k: v["top1"][-1] for k, v in out.items()}, flush=True)
    return out | vars(run) | {"batch_size": config.train.batch_size, "data": config.data.name}


def draw(figures: dict[str, dict]) -> None:
    """One panel for each run: the loss of every step, smoothed over five, on both sides."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6), layout="constrained")
    for axes, (name, run) in zip(figure.subplots(2, 3).flat, figures.items(), strict=False):
        for side, style in {"PyTorch": {"lw": 3, "alpha": 0.4}, "JAX": {"lw": 1.2}}.items():
            loss = np.convolve(run[side]["loss"], np.ones(5) / 5, "valid")
            axes.plot(np.arange(len(loss)) + 5, loss, label=side, **style)
        axes.set_title(f"{name}, {run['data']}", fontsize=10)
        axes.set_xlabel("step")
        axes.set_ylabel("training loss (nats)")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(PICTURE, dpi=110)


def table(figures: dict[str, dict]) -> str:
    """The runs as Markdown."""
    lines = [
        "| run | images × epochs | batch | steps | last 20 losses, JAX / PyTorch "
        "| test top-1, JAX / PyTorch |",
        "|---|---|---|---|---|---|",
    ]
    for name, run in figures.items():
        ours, theirs = run["JAX"], run["PyTorch"]
        losses = " / ".join(f"{np.mean(side['loss'][-20:]):.3f}" for side in (ours, theirs))
        top1 = " / ".join(f"{side['top1'][-1]:.1%}" for side in (ours, theirs))
        lines.append(
            f"| {name}, {run['data']} | {run['images']:,} × {run['epochs']} | {run['batch_size']} "
            f"| {len(ours['loss'])} | {losses} | {top1} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run, and keep figures, picture and table; runs that were not asked for stay as they were."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", help="folder of prepared tensorflow-datasets data")
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS))
    args = parser.parse_args()
    figures = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    for name in args.runs:
        figures[name] = compare(RUNS[name], args.data_dir)
        figures = {name: figures[name] for name in RUNS if name in figures}
        FIGURES.write_text(json.dumps(figures))
        draw(figures)
    from tests.parity.measure import rewrite

    rewrite("curves", table(figures))


if __name__ == "__main__":
    main()
