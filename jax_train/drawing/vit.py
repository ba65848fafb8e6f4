"""Pictures of Vision Transformers: attention, positions, patches and their filters.

See `explain` for the arrays and the letters of their shapes.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import PowerNorm

from jax_models.cct import ConvEmbed
from jax_models.layers import PatchEmbed
from jax_train.analysis import explain
from jax_train.drawing import canvas
from jax_train.drawing.canvas import SMALL, Example, Picture
from jax_train.printing import counted

_CHANNELS = {1: ("grey",), 3: ("red", "green", "blue")}


def channel_names(channels: int) -> tuple[str, ...]:
    """Names of the colours of an image."""
    return _CHANNELS.get(channels) or tuple(f"channel {i + 1}" for i in range(channels))


def _stacked(maps: np.ndarray) -> np.ndarray:
    """Planes one below the other: [...,M,H,W] -> [...,M·H,W]."""
    return maps.reshape(*maps.shape[:-3], -1, maps.shape[-1])


def _behind(pixels: np.ndarray, planes: int) -> np.ndarray:
    """What lies behind stacked planes, in grey: the image, or its colours one by one."""
    return pixels.mean(axis=2) if planes == 1 else _stacked(pixels.transpose(2, 0, 1))


def _plane_note(tokens: np.ndarray) -> str:
    if len(tokens) == 1:
        return ""
    names = ", ".join(channel_names(len(tokens)))
    return f"The tokens are runs of one colour's rows, not squares; from top to bottom: {names}."


def attention_by_head(
    example: Example, attention: np.ndarray, tokens: np.ndarray, prefix: int = 1,
    reader: str = "class token",
) -> Picture:  # fmt: skip
    """The class token's attention in every block and head, the image beside it.

    Args:
      example: the image.
      attention: [L,h,N], see `explain.of_patches`.
      tokens: token map [M,H,W].
      prefix: tokens that are no patches, the class token among them.
      reader: whose attention it is.
    """
    blocks, heads, _ = attention.shape
    gap = [(0, 0)] * 3 + [(0, int(len(tokens) > 1)), (0, 0)]  # a row of NaN below each plane
    tiles = 100 * _stacked(np.pad(attention[..., tokens], gap, constant_values=np.nan))
    height = max(2.4, 1.2 + 0.67 * canvas.mosaic_height(tiles))
    head, note = ("head ", "") if heads <= 4 else ("h", "h: head. ")
    others = "the class token itself" if prefix == 1 else f"the {prefix} tokens that are no patches"
    note += f"What a head lacks to 100 % goes to {others}. " if prefix else ""
    note += _plane_note(tokens)
    figure = canvas.new_figure(height, f"Where the {reader} looks, by block and head", note)
    left, right = figure.subplots(1, 2, width_ratios=(0.24, 0.76))
    canvas.show_image(left, example.pixels, canvas.short_name(example.name), example.verdict_lines)
    left.set_anchor("N")
    rows = [f"block {i + 1}" for i in range(blocks)]
    columns = [f"{head}{i + 1}" for i in range(heads)]
    even = 1 / (attention.shape[2] + prefix)  # the class token may attend to itself
    most = max(float(attention.max()), canvas.BRIGHT * even)
    norm = PowerNorm(0.5, vmin=0, vmax=100 * most)
    image = canvas.show_mosaic(right, tiles, rows, columns, cmap=canvas.AMOUNT, norm=norm)
    below = {"location": "bottom", "shrink": 0.9}
    text = f"attention to a patch (%); even: {100 * even:.3g}, at the line"
    bar = canvas.colour_bar(figure, image, right, text, **below)
    bar.ax.axvline(100 * even, color="white", linewidth=2)
    canvas.fit(figure, np.array([[left, right]]))
    alt = (
        f"Attention of the {reader} on image {example.name}: {blocks} blocks by {heads} heads. "
        f"The largest weight is {100 * attention.max():.0f} % on one patch; even attention would "
        f"be {100 * even:.1f} %."
    )
    return Picture("attention_by_head", figure, alt)


def attention_over_images(
    examples: Sequence[Example], attention: np.ndarray, rollout: np.ndarray, tokens: np.ndarray,
    prefix: int = 1, reader: str = "class token",
) -> Picture:  # fmt: skip
    """The class token's attention laid over each image: some blocks, heads averaged, and rollout.

    Args:
      examples: B images.
      attention: [L,B,h,N], see `explain.of_patches`.
      rollout: [B,N], the same of `explain.rollout`.
      tokens: token map [M,H,W].
      prefix, reader: as in `attention_by_head`.
    """
    depth, even = len(attention), 1 / (attention.shape[-1] + prefix)
    shown = sorted({0, depth // 2, depth - 1})
    columns = [(f"block {i + 1} of {depth}", attention[i].mean(axis=1)) for i in shown]
    columns.append(("rollout", rollout))
    note = (
        f"{canvas.even_note(even)} The largest stands below. Blocks: mean of the heads. "
        "Rollout: all blocks together. "
    ) + _plane_note(tokens)
    title, (planes, h, w) = f"What the {reader} attends to", tokens.shape
    figure, axes = canvas.image_rows(len(examples), len(columns) + 1, planes * h / w, title, note)
    for row, example in enumerate(examples):
        name = canvas.short_name(example.name, 14)
        canvas.show_image(axes[row, 0], example.pixels, name, example.verdict_lines)
        for place, (title, values) in zip(axes[row, 1:], columns, strict=True):
            painted = _stacked(values[row][..., tokens])
            canvas.show_overlay(place, _behind(example.pixels, planes), painted, even=even)
            _separate(place, tokens)
            canvas.label(place, title, canvas.below_map(values[row]))
        for place in axes[row]:
            place.set_anchor("N")
    canvas.fit(figure, axes)
    alt = (
        f"{counted(len(examples), 'image')}, each beside the {reader}'s attention in blocks "
        f"{', '.join(str(i + 1) for i in shown)} of {depth} and beside attention rollout. Even "
        f"attention would be {100 * even:.2g} %."
    )
    return Picture("attention", figure, alt)


def _separate(axes, tokens: np.ndarray) -> None:
    for plane in range(1, len(tokens)):
        axes.axhline(plane * tokens.shape[1] - 0.5, color="white", linewidth=1.5)


def attention_distances(distances: np.ndarray, even: float, images: int, note: str = "") -> Picture:
    """How far the patches look, by depth.

    Args:
      distances: [L,h] pixels, see `explain.attention_distance`.
      even: what attention spread evenly would give, pixels.
      images: how many were averaged.
      note: below.
    """
    blocks = 1 + np.arange(len(distances))
    figure = canvas.new_figure(3.6, "How far the patches look", note)
    axes = figure.subplots()
    for head, line in enumerate(distances.T):
        axes.plot(blocks, line, "o", color="#0072b2", alpha=0.75, label="a head"[: 6 * (not head)])
    axes.plot(blocks, distances.mean(axis=1), "-", color="#d55e00", label="mean of the heads")
    axes.axhline(even, color="black", linestyle="--", linewidth=1, label="all patches alike")
    canvas.name_axes(axes, "block", "mean attention distance (pixels)")
    axes.set_ylim(0, 1.08 * max(distances.max(), even))
    axes.set_xticks(blocks[:: -(-len(blocks) // 12)])
    axes.grid(alpha=0.3)
    axes.legend(fontsize=SMALL, title=f"mean of {counted(images, 'image')}", title_fontsize=SMALL)
    first, last = distances[0], distances[-1]
    alt = (
        f"Mean attention distance of each head: {first.min():.1f} to {first.max():.1f} pixels in "
        f"block 1, {last.min():.1f} to {last.max():.1f} in block {len(distances)}; even attention "
        f"gives {even:.1f}."
    )
    return Picture("attention_distance", figure, alt)


def position_similarities(similarity: np.ndarray, embed: PatchEmbed | ConvEmbed) -> Picture:
    """Similarity of the position embeddings: a map for each patch, or a matrix for runs.

    Args:
      similarity: [N,N], see `explain.position_similarity`.
      embed: which knows where the patches lie.
    """
    side = embed.grid
    title = "Which positions are alike to the model"
    colours = {"cmap": canvas.SIGNED, "vmin": -1, "vmax": 1}
    if embed.raster:
        names = channel_names(embed.in_channels)
        lines = f" Lines: where {', '.join(names)} meet." if len(names) > 1 else ""
        figure = canvas.new_figure(5.4, title, _runs_note(embed) + lines)
        axes = figure.subplots()
        image = axes.imshow(similarity, interpolation="nearest", **colours)
        for colour in range(1, embed.in_channels):
            border = colour * len(similarity) / embed.in_channels - 0.5
            axes.axhline(border, color="black", linewidth=0.7)
            axes.axvline(border, color="black", linewidth=0.7)
        canvas.name_axes(axes, "token", "token")
    else:
        note = "Each small map belongs to the patch at its place: its likeness to all patches."
        figure = canvas.new_figure(6.2, title, note)
        axes = figure.subplots()
        maps = similarity.reshape(side, side, side, side)
        names = [str(i + 1) for i in range(side)]
        image = canvas.show_mosaic(axes, maps, names, names, **colours)
        canvas.name_axes(axes, "column of the patch", "row of the patch", SMALL)
    below = {"location": "bottom", "shrink": 0.8, "aspect": 30}
    canvas.colour_bar(figure, image, axes, "cosine similarity", **below)
    others = similarity[~np.eye(len(similarity), dtype=bool)]
    alt = (
        f"Cosine similarity of the {len(similarity)} position embeddings; between different "
        f"patches from {others.min(initial=1):.2f} to {others.max(initial=-1):.2f}."
    )
    return Picture("position_similarity", figure, alt)


def _runs_note(embed: PatchEmbed) -> str:
    length = embed.in_channels * embed.patch_size**2
    rows = f"{length / embed.img_size:.3g} rows of one colour"
    values = counted(length, "value")
    return f"Tokens are runs of {values} of the channels-first memory ({rows}), not squares."


def patch_filters(components: np.ndarray, shares: np.ndarray, embed: PatchEmbed) -> Picture:
    """The principal components of the patch projection's filters.

    Args:
      components: [k,C·P·P], see `explain.principal_filters`.
      shares: of the variance, [k].
      embed: which knows what a filter looks at.
    """
    title = f"The {len(components)} main filters of the patches"
    text = f"They hold {100 * shares.sum():.0f} % of the variance of all filters."
    if embed.raster:
        height = 1.6 + 0.16 * len(components)
        figure = canvas.new_figure(height, title, f"{text} {_runs_note(embed)}")
        axes = figure.subplots()
        most = np.abs(components).max()
        place = (-0.5, components.shape[1] - 0.5, len(components) + 0.5, 0.5)
        style = {"cmap": canvas.SIGNED, "vmin": -most, "vmax": most, "interpolation": "nearest"}
        image = axes.imshow(components, aspect="auto", extent=place, **style)
        canvas.name_axes(axes, "place in the run", "component")
        canvas.colour_bar(figure, image, axes, "weight (filters have length 1)")
    else:
        figure = canvas.show_filters(explain.squares(components, embed), title, text)
    alt = f"{title}, strongest first. {text} The first holds {100 * shares[0]:.0f} %."
    return Picture("patch_filters", figure, alt)


def image_and_patches(example: Example, embed: PatchEmbed | ConvEmbed) -> Picture:
    """An image beside the patches the model's `embed` cuts it into."""
    _, step, seen = embed.token_pixels
    if seen > step:
        return _image_and_tokens(example, embed)
    patches = embed.cut(example.pixels[None])[0]
    if embed.raster:
        return _image_and_runs(example, patches, embed)
    side, p = embed.img_size // embed.patch_size, embed.patch_size
    figure = canvas.new_figure(3.9, f"An image and its {side}×{side} patches of {p}×{p} pixels")
    left, right = figure.subplots(1, 2)
    canvas.show_image(left, example.pixels, canvas.short_name(example.name), example.verdict)
    tiles = explain.squares(patches, embed).reshape(side, side, p, p, -1)
    if tiles.shape[-1] == 3:
        canvas.show_colour_mosaic(right, np.moveaxis(tiles, -1, 0))
    else:
        canvas.show_grey(right, canvas.mosaic(tiles.mean(axis=-1))[0])
    right.set_facecolor("#56b4e9")  # patches may be white
    canvas.label(right, "patches", "read row by row")
    right.spines[:].set_visible(False)
    canvas.fit(figure, np.array([[left, right]]))
    alt = f"Image {example.name} beside its {side * side} patches of {p} by {p} pixels."
    return Picture("patches", figure, alt)


def _image_and_tokens(example, embed) -> Picture:
    """Of tokens that see more than the pixels that they stand for."""
    side, (_, step, seen) = embed.grid, embed.token_pixels
    title = f"An image and its {side}×{side} tokens"
    note = f"A token stands for {step}×{step} pixels and sees {seen}×{seen} around them."
    figure = canvas.new_figure(3.9, title, note)
    left, right = figure.subplots(1, 2)
    canvas.show_image(left, example.pixels, canvas.short_name(example.name), example.verdict)
    canvas.show_image(right, example.pixels, "tokens", "read row by row")
    for border in np.flatnonzero(np.diff(explain.token_map(embed)[0][:, 0])) + 0.5:
        right.axhline(border, color="#56b4e9", linewidth=1)
        right.axvline(border, color="#56b4e9", linewidth=1)
    canvas.fit(figure, np.array([[left, right]]))
    alt = f"Image {example.name} beside the pixels of its {side * side} tokens. {note}"
    return Picture("patches", figure, alt)


def _image_and_runs(example, runs, embed) -> Picture:
    title = f"An image and its {counted(len(runs), 'token')} of {counted(runs.shape[1], 'value')}"
    note = _runs_note(embed) + " Every second run is tinted."
    figure = canvas.new_figure(6, title, note)
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.15))
    top, bottom = left.subplots(2, 1, height_ratios=(1, 2.2))
    canvas.show_image(top, example.pixels, canvas.short_name(example.name), example.verdict)
    _show_runs(bottom, example, embed)
    axes = right.subplots()
    axes.imshow(runs, cmap="gray", vmin=0, vmax=1, interpolation="nearest", aspect="auto")
    axes.set_title("what the model reads", fontsize=SMALL)
    canvas.name_axes(axes, "place in the run", "token", SMALL)
    alt = f"Image {example.name}, its colours with the runs of memory marked, and the runs as rows."
    return Picture("patches", figure, alt)


def _show_runs(axes, example, embed) -> None:
    tokens = explain.token_map(embed)
    canvas.show_grey(axes, _behind(example.pixels, len(tokens)))
    second = np.ma.masked_equal(_stacked(tokens) % 2, 0)
    axes.imshow(second, cmap="viridis", vmin=0, vmax=2, alpha=0.5, interpolation="nearest")
    _separate(axes, tokens)
    canvas.label(axes, "its colours, run after run")
    names = channel_names(embed.in_channels)[: len(tokens)]
    middles = (np.arange(len(tokens)) + 0.5) * tokens.shape[1] - 0.5
    axes.set_yticks(middles, names, rotation=90, va="center", fontsize=SMALL)
    axes.tick_params(length=0)
