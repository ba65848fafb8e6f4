"""Google's ViT checkpoints (.npz), of vision_transformer and big_vision, under timm's names.

Their Flax modules number the children that have no name, and the two do it differently: the second
LayerNorm of a block is LayerNorm_2 in old files and LayerNorm_1 in new ones. Taken in the order of
their numbers both read alike. big_vision may stack all blocks along a first axis.
Sources: https://github.com/google-research/vision_transformer,
https://github.com/google-research/big_vision.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

_ROOTS = ("opt/target/", "params/img/", "params/", "img/")
_POSITIONS = ("Transformer/posembed_input/pos_embedding", "Transformer/pos_embedding")
_BLOCK = re.compile(r"Transformer/encoderblock_(\d+)/(.+)")
_STACKED = "Transformer/encoderblock/"
_CHILD = re.compile(r"(LayerNorm|MultiHeadDotProductAttention|MlpBlock)_(\d+)/(.+)")
_ATTENTION_POOL = "MAPHead_0/"
_ORDINARY = {"kernel": "weight", "scale": "weight", "bias": "bias"}
_LAYERS = {"Transformer/encoder_norm": "norm", "head": "head", "pre_logits": "pre_logits"}


class OtherModel(ValueError):
    """A checkpoint of Google's of a model that is not known here."""


def recognises(names: Iterable[str]) -> bool:
    """Whether names are those of one of Google's checkpoints, under any root."""
    return any(name.endswith("embedding/kernel") for name in names)


def as_timm(state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return a checkpoint under timm's names and in PyTorch's layout; what is unknown as it is.

    Raises:
      OtherModel: it has big_vision's attention pooling.
    """
    state = _blocks_apart(_without_root(state))
    if any(name.startswith(_ATTENTION_POOL) for name in state):
        raise OtherModel(
            "holds a ViT of big_vision with pool_type='map', whose head (MAPHead_0) pools by an "
            "attention of its own, as SigLIP's does. The models here read the class token or the "
            "mean of the patches: take a checkpoint of pool_type 'tok' or 'gap'."
        )
    children = _children(state)
    found: dict[str, Any] = {}
    heads: dict[str, Any] = {}
    for name, array in state.items():
        if match := _BLOCK.fullmatch(name):
            number, path = match.groups()
            child = _CHILD.fullmatch(path)
            if child is None:
                found[name] = array
                continue
            kind, own, rest = child.groups()
            place = children[number, kind].index(int(own))
            _take(found, heads, f"blocks.{number}.", kind, place, rest, array)
        else:
            found |= _outside(name, array)
    for name, parts in heads.items():
        if parts.keys() == {"query", "key", "value"}:  # else it is told as missing
            found[name] = np.concatenate([parts[one] for one in ("query", "key", "value")])
    return found


def fixed_positions(grid: int, width: int) -> np.ndarray:
    """Positions [1,grid·grid,width] of big_vision's posemb='sincos2d', which its files lack.

    Four quarters: sine and cosine of the column, sine and cosine of the row, each at width/4
    frequencies from 1 down to 1/10,000. Worked out in float32, as there.
    """
    waves = 1 / np.float32(10_000) ** np.linspace(0, 1, width // 4, dtype=np.float32)
    places = np.arange(grid, dtype=np.float32)[:, None] * waves
    rows, columns = np.repeat(places, grid, axis=0), np.tile(places, (grid, 1))
    parts = [f(angles) for angles in (columns, rows) for f in (np.sin, np.cos)]
    return np.concatenate(parts, axis=1)[None]


def _without_root(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    for root in _ROOTS:
        if f"{root}embedding/kernel" in state:  # beside it lies an optimizer's state
            return {k.removeprefix(root): v for k, v in state.items() if k.startswith(root)}
    return dict(state)


def _blocks_apart(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    apart = {}
    for name, array in state.items():
        if not name.startswith(_STACKED):
            apart[name] = array
            continue
        rest = name.removeprefix(_STACKED)
        apart |= {f"Transformer/encoderblock_{i}/{rest}": one for i, one in enumerate(array)}
    return apart


def _children(state: Iterable[str]) -> dict[tuple[str, str], list[int]]:
    """(block, kind of child) -> the numbers of these, in order."""
    found: dict[tuple[str, str], set[int]] = {}
    for name in state:
        block = _BLOCK.fullmatch(name)
        if block and (child := _CHILD.fullmatch(block[2])):
            found.setdefault((block[1], child[1]), set()).add(int(child[2]))
    return {key: sorted(numbers) for key, numbers in found.items()}


def _take(found, heads, block: str, kind: str, place: int, rest: str, array: np.ndarray) -> None:
    """Put an array of a child of a block under timm's name, or what makes a qkv into `heads`."""
    layer, _, leaf = rest.rpartition("/")
    ending = _ORDINARY.get(leaf, leaf)
    if kind == "LayerNorm":
        found[f"{block}norm{place + 1}.{ending}"] = array
    elif kind == "MlpBlock":
        number = int(layer == "Dense_1") + 1
        found[f"{block}mlp.fc{number}.{ending}"] = array.T if leaf == "kernel" else array
    elif layer == "out":  # kernel [h,D/h,D]
        flat = array.reshape(-1, array.shape[-1]).T if leaf == "kernel" else array
        found[f"{block}attn.proj.{ending}"] = flat
    else:  # kernel [D,h,D/h], bias [h,D/h]
        flat = array.reshape(len(array), -1).T if leaf == "kernel" else array.reshape(-1)
        heads.setdefault(f"{block}attn.qkv.{ending}", {})[layer] = flat


def _outside(name: str, array: np.ndarray) -> dict[str, np.ndarray]:
    """An array that is in no block."""
    if name == "cls":
        return {"cls_token": array}
    if name in (*_POSITIONS, "pos_embedding"):
        return {"pos_embed": array}
    if name == "embedding/kernel":
        return {"patch_embed.proj.weight": array.transpose(3, 2, 0, 1)}
    if name == "embedding/bias":
        return {"patch_embed.proj.bias": array}
    layer, _, leaf = name.rpartition("/")
    if layer in _LAYERS and leaf in _ORDINARY:
        turned = array.T if leaf == "kernel" else array
        return {f"{_LAYERS[layer]}.{_ORDINARY[leaf]}": turned}
    return {name: array}
