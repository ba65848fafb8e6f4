"""What a config names, built: the completed config, the model, and what the steps close over."""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from ml_collections import ConfigDict, FrozenConfigDict

import jax_models
from jax_models import cpu
from jax_models.conv_layers import BatchNorm
from jax_train.config import ranges
from jax_train.data import Dataset, Splits
from jax_train.data.split import AUTO
from jax_train.data.statistics import channel_statistics, class_counts
from jax_train.engine import augment, average, checks, metrics, optim, seeds, trainable
from jax_train.engine.augment import Augmentation
from jax_train.engine.average import Average
from jax_train.engine.checks import follows_examples
from jax_train.engine.field_checks import BALANCED, CROSS_ENTROPY
from jax_train.engine.parallel import Layout
from jax_train.engine.state import (
    TrainState,
    Weights,
    cast,
    init_state,
    leaf_paths,
    split,
    stored,
)
from jax_train.engine.trainable import Paths
from jax_train.errors import UserError
from jax_train.printing import counted, listing

# Fields of `config.model` that say which model it is, and what it starts from.
NO_KEYWORDS = ("name", "init_from", "init_revision", "init_sha256", "init_images")


@dataclass(frozen=True, kw_only=True)
class Model:
    """What evaluates: a model without its weights, and what happens to images before it.

    Attributes:
      graphdef: static part of the model, from `nnx.split`.
      augmentation: from raw pixels to model input.
      dtype: of the computation; parameters stay as they are stored.
      eval_batch_size: the largest batch of an evaluation; see `metrics.eval_sums`.
      classes: numbers of the classes whose logits count; None for all.
    """

    graphdef: Any
    augmentation: Augmentation
    dtype: str = "float32"
    eval_batch_size: int = 0
    classes: tuple[int, ...] | None = None

    def merge(self, params: Any, stats: Any) -> nnx.Module:
        """The model with these weights, computing in `dtype`."""
        return nnx.merge(self.graphdef, cast(params, self.dtype), stats)

    def inputs(self, images: jax.Array) -> jax.Array:
        """What the model takes of raw images uint8 [B,H,W,C] in evaluation."""
        return self.augmentation.evaluate(images).astype(self.dtype)


@dataclass(frozen=True, kw_only=True)
class Recipe(Model):
    """What the training steps close over.

    Attributes:
      optimizer: updates the parameters.
      trained: paths of the parameters that train; None for all.
      layout: how the work is spread over devices.
      seed: see `seeds`.
      batch_size: of the whole batch, over all devices.
      steps_per_epoch: full batches in an epoch.
      loss: one of `field_checks.LOSSES`.
      label_smoothing: of the training loss.
      class_weights: of the training loss, [K]; None: all 1.
      bce_threshold, bce_sum: see `metrics.binary_cross_entropy`.
      accumulate_steps: parts a batch is worked through in, one after the other.
      skip_nonfinite: go on after a step whose loss or gradient is not finite; otherwise nothing
        changes from that step on. Such a step itself never changes the state.
      repeats: times that a batch has each of its images.
      follows_examples: whether a batch needs its `index`, see `state.Data`.
      average: how the weights are averaged; None: not.
    """

    optimizer: optax.GradientTransformation
    layout: Layout
    seed: int
    batch_size: int
    steps_per_epoch: int
    loss: str = CROSS_ENTROPY
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] | None = None
    bce_threshold: float | None = None
    bce_sum: bool = False
    accumulate_steps: int = 1
    skip_nonfinite: bool = False
    trained: Paths | None = None
    repeats: int = 1
    follows_examples: bool = False
    average: Average | None = None

    @property
    def divides_by_weight(self) -> bool:
        """Whether losses are divided by the mean weight of the labels; see `metrics`."""
        return self.class_weights is not None and self.loss == CROSS_ENTROPY

    def losses(self, logits: jax.Array, targets: jax.Array) -> jax.Array:
        """The training loss of each example [B], before that division; see `metrics`."""
        how = self.label_smoothing, self.class_weights
        if self.loss == CROSS_ENTROPY:
            return metrics.cross_entropy(logits, targets, *how)
        return metrics.binary_cross_entropy(logits, targets, *how, self.bce_threshold, self.bce_sum)


def resolve(config: ConfigDict, splits: Splits, mean=None, std=None) -> ConfigDict:
    """Fill in what follows from the data: sizes of the model, mean and std of the pixels.

    Where the config leaves them to the data, `mean` and `std` are taken, such as those that a run
    began with; None: they are measured.

    Raises:
      UserError: the model's sizes contradict the data's.
    """
    config = config.copy_and_resolve_references()
    height, width, channels = splits.train.image_shape
    height, width = checks.output_size(config.augment, height, width)
    known = jax_models.model_keywords(config.model.name)
    if "img_size" in known and height != width:
        raise UserError(
            f"The images are {height}x{width} pixels and {config.model.name} takes square ones: "
            "set config.augment.resize to a side."
        )
    classes = splits.train.num_classes
    facts = {"img_size": height, "in_channels": channels, "num_classes": classes}
    with config.unlocked():
        for key, value in facts.items():
            given = config.model[key]
            if given is not None and given != value:
                raise UserError(
                    f"config.model.{key}={given}, but the data has {value}. Leave it unset."
                )
            config.model[key] = value if key in known else None
        for name in ("train", "val", "test"):
            if config.data[f"{name}_split"] == AUTO:
                chosen = getattr(splits, name)
                config.data[f"{name}_split"] = chosen.split if chosen else ""
        known = {"mean": config.data.mean or mean, "std": config.data.std or std}
        if None in known.values():
            measured = dict(zip(known, channel_statistics(splits.train), strict=True))
            known = {key: measured[key] if value is None else value for key, value in known.items()}
        config.data.update({key: tuple(value) for key, value in known.items()})
    return config


def create_model(config: ConfigDict, rngs: nnx.Rngs) -> nnx.Module:
    """Build the model that `config.model` describes.

    Raises:
      UserError: it cannot be built that way.
    """
    settings = {k: v for k, v in config.model.items() if k not in NO_KEYWORDS and v is not None}
    try:
        return jax_models.create_model(config.model.name, rngs=rngs, **settings)
    except ValueError as error:
        raise UserError(f"config.model: {error}") from error


def initial_state(
    config: ConfigDict, optimizer: optax.GradientTransformation, given: Weights | None = None
) -> TrainState:
    """The state that a run starts from; pure, so it can be compiled.

    Weights that are not `given` are drawn from the seed.
    """
    model = create_model(config, seeds.init_rngs(config.seed))
    return init_state(model, optimizer, config.dtype, given, average.is_on(config))


def abstract_weights(config: ConfigDict) -> Weights:
    """Shapes and dtypes of a run's weights; nothing is computed.

    Raises:
      UserError: the model cannot be built that way.
    """
    weights = _abstract_model(FrozenConfigDict({"model": config.model}), None)[1]
    return jax.eval_shape(functools.partial(stored, dtype=config.dtype), weights)


@functools.lru_cache(maxsize=8)  # building takes tenths of a second, of deep models more
def _abstract_model(
    config: FrozenConfigDict, axis_name: str | None, trained: Paths | None = None
) -> tuple[Any, Weights]:
    """The static part of a model, and its weights as they are before a cast."""
    model = nnx.eval_shape(lambda: create_model(config, seeds.init_rngs(0)))
    model.set_attributes(BatchNorm, axis_name=axis_name, raise_if_not_found=False)
    for keys, module in nnx.iter_modules(model):
        if isinstance(module, BatchNorm) and trained is not None:
            path = ".".join(map(str, keys))
            module.frozen = trained.isdisjoint((f"{path}.scale", f"{path}.bias"))
    return split(model)


def describe_model(
    config: ConfigDict, axis_name: str | None = None, trained: Paths | None = None
) -> Model:
    """Make of a resolved config what evaluates.

    Args:
      config: resolved.
      axis_name: see `Layout.axis_name`.
      trained: paths of the parameters that train; batch norm of which none does is frozen.

    Raises:
      UserError: the model or the augmentation cannot be built that way.
    """
    return Model(
        graphdef=_abstract_model(FrozenConfigDict({"model": config.model}), axis_name, trained)[0],
        augmentation=augment.build(
            config.augment, config.data.mean, config.data.std, config.model.num_classes
        ),
        dtype=cpu.dtype(config.dtype),
        eval_batch_size=config.eval.batch_size,
    )


def class_weights(config: ConfigDict, train_set: Dataset) -> tuple[float, ...] | None:
    """The weight of each class in the training loss; None where all are 1.

    'balanced' is scikit-learn's: n / (K · n_k) for class k with n_k of n images.

    Raises:
      UserError: there is not one for each class, or a class without images cannot be balanced.
    """
    weights, names = config.train.class_weights, train_set.class_names
    if weights is None:
        return None
    field, classes = "train.class_weights", counted(len(names), "class", "classes")
    if tuple(weights) != BALANCED:
        if len(weights) != len(names):
            expected = f"a weight for each of {classes}, or 'balanced'"
            raise ranges.refusal(field, tuple(weights), expected)
        return tuple(map(float, weights))
    counts = class_counts(train_set)
    if lacking := [name for name, count in zip(names, counts, strict=True) if not count]:
        expected = f"images of all {classes}, and {train_set.split!r} has none of "
        cure = "Add images, choose another training split, or give a weight for each class."
        raise ranges.refusal(field, "balanced", expected + listing(lacking, 60), cure)
    return tuple(float(counts.sum() / (len(names) * count)) for count in counts)


def step_tables(config: ConfigDict, steps_per_epoch: int) -> list[np.ndarray]:
    """All that follows from the number of a step, as tables [total_steps]."""
    schedules = [
        optim.schedule_tables(one, steps_per_epoch)
        for one in (config, *checks.group_configs(config))
    ]
    averaged = average.create(config, schedules[0])
    tables = [table for schedule in schedules for table in schedule if table is not None]
    return tables if averaged is None else [*tables, averaged.shares]


def create_recipe(
    config: ConfigDict, schedule: optim.Schedule, layout: Layout, steps_per_epoch: int, *,
    class_weights: tuple[float, ...] | None = None, probing: bool = False,
) -> Recipe:  # fmt: skip
    """Put together what the compiled steps close over.

    Args:
      config: resolved.
      schedule: of the whole run.
      layout: of the devices.
      steps_per_epoch: full batches in an epoch.
      class_weights: of the training loss, see `class_weights`.
      probing: in the epochs of the probe.

    Raises:
      UserError: the model, the optimizer or the augmentation cannot be built that way.
    """
    plan = trainable.plan(config, leaf_paths(abstract_weights(config).params))
    trained = plan.probed if probing else plan.trained
    probe_steps = config.train.probe_epochs * steps_per_epoch
    return Recipe(
        **vars(describe_model(config, layout.axis_name, trained)),
        optimizer=optim.create_optimizer(config, schedule, plan, probe_steps),
        trained=trained,
        layout=layout,
        seed=config.seed,
        batch_size=config.train.batch_size,
        steps_per_epoch=steps_per_epoch,
        loss=config.train.loss,
        label_smoothing=config.train.label_smoothing,
        bce_threshold=config.train.bce_threshold,
        bce_sum=config.train.bce_sum,
        class_weights=class_weights,
        accumulate_steps=config.train.accumulate_steps,
        skip_nonfinite=config.train.on_nonfinite == "skip",
        repeats=config.augment.repeats,
        follows_examples=follows_examples(config.augment),
        average=average.create(config, schedule),
    )
