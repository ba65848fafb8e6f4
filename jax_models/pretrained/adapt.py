"""A loaded model at other sizes: other classes, images, channels."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jax_models import registry
from jax_models.pretrained import positions
from jax_models.pretrained.description import Description

Path = tuple[Any, ...]


def adapt(
    model: nnx.Module, found: Description, changes: dict[str, Any], rngs: nnx.Rngs | None
) -> nnx.Module:
    """Return a model of other sizes with the weights of one, adding notes of what was changed.

    Args:
      model: loaded, with the settings of `found`.
      found: its description; gets the new settings and notes.
      changes: of `num_classes`, `img_size`, `in_channels`.
      rngs: for the weights of a new head; None: zeros.

    Raises:
      ValueError: the model cannot have those sizes.
    """
    settings = found.settings | changes
    changed = registry.abstract_model(found.name, **settings)
    old, new = (dict(nnx.to_flat_state(nnx.state(one))) for one in (model, changed))
    fresh = []
    # Tokens that are runs of an image's memory are of other places in another image.
    is_bound = getattr(getattr(model, "patch_embed", None), "raster", False)
    for path, variable in new.items():
        before = old.get(path)
        if before is not None and before.shape == variable.shape:
            variable.set_value(before.get_value())
        elif path[-1] == "pos_embed" and not is_bound:
            variable.set_value(_positions(before, model, changed, found))
        elif before is not None and not is_bound and _is_input(path, before, variable, changes):
            variable.set_value(jnp.asarray(_channels(before, changes, found)))
        else:
            _check_is_head(path, before, variable, found, changes)
            fresh.append(path)
    if changes.get("num_classes") == 0:
        found.notes.append("The head is left out: the model gives features.")
    if fresh:
        _fill_head(new, fresh, found, settings, rngs)
    nnx.update(changed, nnx.from_flat_state(new))
    found.settings = settings
    return changed


def _positions(before, model, changed, found: Description) -> jax.Array:
    old, grid = model.patch_embed.grid, changed.patch_embed.grid
    found.notes.append(
        f"The positions are resized from {old}x{old} to {grid}x{grid} patches by {found.rule}'s "
        "rule."
    )
    table, rule = np.asarray(before.get_value()), positions.RULES[found.rule]
    return jnp.asarray(positions.resize(table, grid, rule, old=old))


def _check_is_head(path: Path, before, variable, found: Description, changes) -> None:
    """Raise a ValueError where weights would be new that are not those of the classes."""
    same_inputs = before is None or before.shape[:-1] == variable.shape[:-1]
    if path[0] == "head" and same_inputs:
        return
    asked = ", ".join(f"{key}={value}" for key, value in changes.items())
    raise ValueError(
        f"{found.name} cannot go to {asked} with its weights: {'.'.join(map(str, path))} is "
        f"{list(before.shape) if before else 'not there'} and would be {list(variable.shape)}. "
        f"Keep the {'size of its images' if 'img_size' in changes else 'sizes of the source'}."
    )


def _is_input(path: Path, before, variable, changes: dict[str, Any]) -> bool:
    of_images = len(variable.shape) == 4 or "patch_embed" in path
    return "in_channels" in changes and of_images and before.shape[-1] == variable.shape[-1]


def _channels(before, changes: dict[str, Any], found: Description) -> np.ndarray:
    """The first kernel for other channels, by timm's rule (`adapt_input_conv`)."""
    kernel, old = np.asarray(before.get_value()), found.settings["in_channels"]
    new = changes["in_channels"]
    found.notes.append(f"The first kernel is made for {new} channels from {old} by timm's rule.")
    outputs = kernel.shape[-1]
    if kernel.ndim == 4:
        by_channel = np.moveaxis(kernel, 2, 0)
        return np.ascontiguousarray(np.moveaxis(for_channels(by_channel, new), 0, 2))
    by_channel = kernel.reshape(old, -1, outputs)  # patches are flattened channels first
    return for_channels(by_channel, new).reshape(-1, outputs)


def for_channels(kernel: np.ndarray, new: int) -> np.ndarray:
    """A kernel [C,…] for other channels [new,…]: one takes the sum, more take them in turns.

    Source: timm.models._manipulate.adapt_input_conv; of a kernel for three channels its numbers.
    """
    old = len(kernel)
    if new == 1:
        return kernel.sum(axis=0, keepdims=True)
    repeated = np.concatenate([kernel] * -(-new // old))[:new]
    return (repeated * (old / new)).astype(kernel.dtype)


def _fill_head(
    new: dict[Path, Any],
    fresh: list[Path],
    found: Description,
    settings: dict[str, Any],
    rngs: nnx.Rngs | None,
) -> None:
    if rngs is None:
        values = {path: jnp.zeros(new[path].shape, new[path].dtype) for path in fresh}
    else:
        values = _drawn(found.name, settings, fresh, rngs)
    for path, value in values.items():
        new[path].set_value(value)
    begins = "zeros" if rngs is None else f"the initial weights of {found.name}"
    before, after = found.settings.get("num_classes"), settings["num_classes"]
    instead = f", in place of that for {before}" if before else ""
    found.notes.append(f"The head for {after} classes is new{instead}: {begins}.")


def _drawn(name: str, settings: dict[str, Any], paths: list[Path], rngs) -> dict[Path, Any]:
    """Initial values of a model's variables; one block draws the same head as many."""
    keywords = registry.model_keywords(name)
    shallow: dict[str, Any] = {"depth": 1} if "depth" in keywords else {}
    if "depths" in keywords:
        shallow = {"depths": (1,) * len(settings.get("depths", keywords["depths"]))}
    model = registry.create_model(name, rngs=rngs, **(settings | shallow))
    state = dict(nnx.to_flat_state(nnx.state(model)))
    return {path: state[path].get_value() for path in paths}
