"""The same steps under many layouts, each by the engine's own compiled step.

python -m tests.layouts.runs --out FOLDER --layouts jit8 pmap8 [--full]

Needs 8 virtual CPU devices (XLA_FLAGS=--xla_force_host_platform_device_count=8); as one of several
processes it takes --coordinator, --num_processes and --process_id. `measure.py` starts them all.
Each run leaves an .npz with the loss of every step, the final parameters, and the images and masks
of one step, and a .json with the compiled program and its memory.
"""

import argparse
import functools
import importlib
import json
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jax_models.dropout import dropout_mask
from jax_models.rngs import ExampleRngs
from jax_train.data import Dataset
from jax_train.engine import feed, parallel, seeds, steps
from jax_train.engine.augment import Place
from jax_train.engine.program import Program
from jax_train.engine.recipe import abstract_weights
from jax_train.engine.state import Progress, Weights
from jax_train.machine import processes
from jax_train.runs.checkpoint import Checkpoints

MODELS = ("vit", "simple_cnn")
CLASSES, EPOCHS = 10, 2
SMALL = {"vit": 16, "simple_cnn": 8}  # side of the images in tests: 64-bit convolutions are slow


@dataclass(frozen=True)
class Layout:
    """How a run is spread.

    Attributes:
      devices: how many; None: all, those of other processes too.
      changes: of the config.
      saves: leaves a checkpoint after the first epoch.
      resumes: starts from that checkpoint.
    """

    devices: int | None
    changes: dict = field(default_factory=dict)
    saves: bool = False
    resumes: bool = False


LAYOUTS = {
    "one": Layout(1),
    "jit8": Layout(8, saves=True),
    "pmap8": Layout(8, {"parallel": "pmap"}),
    "fsdp2x4": Layout(8, {"mesh.data": 2, "mesh.fsdp": 4}),
    "accumulate": Layout(1, {"train.accumulate_steps": 3}),
    "accumulate, pmap4": Layout(4, {"parallel": "pmap", "train.accumulate_steps": 3}),
    "remat": Layout(1, {"model.remat": True}),
    "remat, fsdp2x4": Layout(8, {"model.remat": True, "mesh.fsdp": 4}),
    "bfloat16": Layout(1, {"dtype": "bfloat16"}),
    "processes": Layout(None),
    "resumed on one": Layout(1, resumes=True),
    "resumed on fsdp2x4": Layout(8, {"mesh.fsdp": 4}, resumes=True),
    "resumed on processes": Layout(None, resumes=True),
}
# Of the small ViT: not all trains, and neither parameters nor classes count alike.
UNEVEN = {
    "train.class_weights": tuple(0.5 + 0.3 * i for i in range(CLASSES)),
    "train.freeze": ("pos_embed", r"^blocks\.0\.attn"),
    "train.probe_epochs": 1,
    "optim.layer_decay": 0.7,
    "optim.clip_norm": 0.5,
    "optim.lookahead_steps": 4,
}
# Of the small CNN: what is drawn for pairs, batches and examples, and does not move pixels alone.
MIXED = {
    "train.batch_size": 48,  # even parts of 8 devices
    "augment.crop_mode": "reflect",
    "augment.flip_mode": "alternating",
    "augment.auto_augment": "ta_wide",
    "augment.erase_probability": 0.5,
    "augment.mixup": 0.8,
    "augment.cutmix": 1.0,
    "augment.mix_mode": "elem",
}
# Of the small CNN: the average of the weights is what is compared.
AVERAGED = {"train.ema_decay": 0.9, "optim.name": "muon", "optim.momentum": 0.8}
# Those whose images and masks are looked at.
INPUTS = ("one", "jit8", "pmap8", "fsdp2x4", "processes")


def make_config(model: str, full: bool, dtype: str):
    """The CIFAR-10 recipe of a model, with crop, flip and dropout on; small unless `full`."""
    config = importlib.import_module(
        f"configs.{'vit' if model == 'vit' else 'cnn'}_cifar10"
    ).get_config()
    config.dtype = dtype
    config.train.epochs = EPOCHS
    config.train.batch_size = 24
    config.model.num_classes = CLASSES
    if model == "vit":
        config.model.img_size = 32 if full else SMALL[model]
    if not full:
        config.optim.learning_rate = 1e-3
        if model == "vit":
            config.model.embed_dim, config.model.depth, config.model.num_heads = 24, 2, 3
            config.model.patch_size = 4
            config.update_from_flattened_dict(UNEVEN)
        else:
            config.model.widths = (7, 13)
            config.update_from_flattened_dict(MIXED | AVERAGED)
    return config


def given(config) -> Weights:
    """Weights of the head from elsewhere; the rest is drawn from the seed."""
    random = np.random.default_rng(5)

    def draw(leaf):
        return (random.normal(size=leaf.shape) / 7).astype(leaf.dtype)

    return Weights({"head": jax.tree.map(draw, abstract_weights(config).params["head"])}, {})


def random_split(size: int = 32, count: int = 15 * 24 + 5) -> Dataset:
    """Random images of that size, enough for 15 steps an epoch, and a few more."""
    random = np.random.default_rng(11)
    images = random.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    labels = random.integers(0, CLASSES, count).astype(np.int32)
    names = tuple(map(str, range(CLASSES)))
    return Dataset(
        name="random",
        split="train",
        images=images,
        labels=labels,
        class_names=names,
        source="random",
        ranges=(("train", 0, count),),
    )


class Run:
    """A recipe under a layout, ready to take steps."""

    def __init__(self, config, devices, split: Dataset):
        self.program = Program(config, split, parallel.create(config, devices), given(config))
        self.layout, self.recipe = self.program.layout, self.program.recipe
        self.per_epoch, self.like = self.program.steps_per_epoch, self.program.like
        self.feed = feed.create(split, self.layout)
        self.state, self.zero = self.program.start()
        self.length = min(config.train.steps_per_call or 1, self.per_epoch)
        step = functools.partial(steps.train_steps, self.recipe, self.length)
        args = (self.state, self.zero, self.feed.arrays, self.program.order(0))
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.like.state)
        self.step = self.layout.compile(step, args, out=(shardings, self.layout.replicated))

    def epoch(self, epoch: int) -> list[float]:
        """Train; the mean loss of every call, which is a step if the config does not say more."""
        losses, order = [], self.program.order(epoch)
        images = self.recipe.batch_size * self.length
        for _ in range(self.per_epoch // self.length):
            self.state, sums = self.step(self.state, self.zero, self.feed.arrays, order)
            losses.append(float(jax.device_get(sums.loss)) / images)
        return losses

    def whole(self, tree) -> dict[str, np.ndarray]:
        """A pytree as named arrays on the host."""
        tree = jax.jit(lambda x: x, out_shardings=self.layout.replicated)(tree)
        paths, _ = jax.tree_util.tree_flatten_with_path(tree)
        return {
            jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(jax.device_get(leaf))
            for path, leaf in paths
        }

    def inputs(self) -> tuple[np.ndarray, np.ndarray]:
        """Augmented images, and dropout masks, of the first batch as the step makes them."""
        recipe = self.recipe

        def make(data, order):
            index = recipe.layout.shard_batch(order[0], axis=1)[0]
            places = recipe.layout.shard_batch(jnp.arange(recipe.batch_size)[None], axis=1)[0]
            keys = seeds.keys_at(recipe.seed, seeds.AUGMENT, 0, places)
            place = Place(recipe.seed, jnp.int32(0), recipe.steps_per_epoch, index)
            batch = data.images[index], data.labels[index]
            images, _ = recipe.augmentation.train(*batch, keys, place)
            rngs = ExampleRngs(seeds.keys_at(recipe.seed, seeds.DROPOUT, 0, places))
            masks = dropout_mask(rngs.dropout(), (len(places), 17, 24), 0.1)
            if recipe.layout.axis_name:
                gather = functools.partial(
                    jax.lax.all_gather, axis_name=recipe.layout.axis_name, tiled=True
                )
                return gather(images), gather(masks)
            return images, masks

        args = (self.feed.arrays, self.program.order(0))
        return tuple(map(np.asarray, jax.device_get(self.layout.compile(make, args)(*args))))


def measure(name: str, model: str, full: bool, dtype: str, folder: Path) -> None:
    """Run the steps of a model under a layout and write what came of them."""
    layout = LAYOUTS[name]
    config = make_config(model, full, dtype)
    config.update_from_flattened_dict(layout.changes)
    run = Run(config, jax.devices()[: layout.devices], random_split(32 if full else SMALL[model]))
    memory = parallel.memory(run.step, run.state, run.feed.arrays)
    arrays, losses = {}, []
    if name in INPUTS:
        arrays["images"], arrays["masks"] = run.inputs()
    with Checkpoints(folder / model) if layout.saves or layout.resumes else nullcontext() as saved:
        if layout.resumes:
            _, (run.state, _), _ = saved.restore_newest(run.like)
        for epoch in range(1 if layout.resumes else 0, EPOCHS):
            losses += run.epoch(epoch)
            if layout.saves and epoch == 0:
                saved.save(Progress(run.state, run.zero), run.per_epoch, {})
    arrays["losses"] = np.array(losses)
    arrays |= run.whole(run.state.reported._asdict())
    if processes.is_main():
        np.savez(folder / f"{model}, {name}.npz", **arrays)
        out = {"hlo": run.step.as_text(), "memory": memory._asdict()}
        (folder / f"{model}, {name}.json").write_text(json.dumps(out))


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, required=True)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--dtype", default="float64")
    for name in ("coordinator", "num_processes", "process_id"):
        parser.add_argument(f"--{name}", type=str if name == "coordinator" else int)
    args = parser.parse_args()
    if args.coordinator:
        processes.start(args.coordinator, args.num_processes, args.process_id)
    for model in args.models:
        for name in args.layouts:
            measure(name, model, args.full, args.dtype, args.out)
            print(model, name, "done", flush=True)


if __name__ == "__main__":
    main()
