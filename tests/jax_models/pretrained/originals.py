"""State dicts by the names of the original code bases, made of those by timm's; NumPy's arrays."""

import re

import numpy as np

OLD = {"norm": (0, 2), "attn": 1, "mlp": 3, "positions": "Transformer/posembed_input/pos_embedding"}
NEW = {"norm": (0, 1), "attn": 0, "mlp": 0, "positions": "pos_embedding"}


def google(state, numbers, heads):
    """Google's names, in Flax's layout: `OLD` numbers of vision_transformer or `NEW` of Linen."""
    found = {"cls": state["cls_token"]} if "cls_token" in state else {}
    found |= {
        numbers["positions"]: state["pos_embed"],
        "embedding/kernel": state["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.proj.bias"],
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
        "head/kernel": state["head.weight"].T,
        "head/bias": state["head.bias"],
    }
    for i in range(_depth(state)):
        block, ours = f"Transformer/encoderblock_{i}", f"blocks.{i}"
        for k in (1, 2):
            norm = f"{block}/LayerNorm_{numbers['norm'][k - 1]}"
            found[f"{norm}/scale"] = state[f"{ours}.norm{k}.weight"]
            found[f"{norm}/bias"] = state[f"{ours}.norm{k}.bias"]
            dense = f"{block}/MlpBlock_{numbers['mlp']}/Dense_{k - 1}"
            found[f"{dense}/kernel"] = state[f"{ours}.mlp.fc{k}.weight"].T
            found[f"{dense}/bias"] = state[f"{ours}.mlp.fc{k}.bias"]
        attn = f"{block}/MultiHeadDotProductAttention_{numbers['attn']}"
        kernels = np.split(state[f"{ours}.attn.qkv.weight"], 3)
        biases = np.split(state[f"{ours}.attn.qkv.bias"], 3)
        for name, kernel, bias in zip(("query", "key", "value"), kernels, biases, strict=True):
            found[f"{attn}/{name}/kernel"] = kernel.T.reshape(len(kernel), heads, -1)
            found[f"{attn}/{name}/bias"] = bias.reshape(heads, -1)
        out = state[f"{ours}.attn.proj.weight"].T
        found[f"{attn}/out/kernel"] = out.reshape(heads, -1, out.shape[1])
        found[f"{attn}/out/bias"] = state[f"{ours}.attn.proj.bias"]
    return found


def stacked(state):
    """Google's names with all blocks in one array, as big_vision's scan has them."""
    blocks = [key for key in state if "encoderblock_0/" in key]
    found = {key: value for key, value in state.items() if "encoderblock_" not in key}
    depth = len([key for key in state if key.endswith("LayerNorm_0/scale")])
    for key in blocks:
        parts = [state[key.replace("_0/", f"_{i}/", 1)] for i in range(depth)]
        found[key.replace("encoderblock_0/", "encoderblock/")] = np.stack(parts)
    return found


def deit3(state):
    """Facebook's names of DeiT-3."""
    return rename(state, (r"ls(\d)\.gamma", r"gamma_\1"))


def dinov2(state, swiglu=False):
    """Facebook's names of DINOv2: with registers, the class token has a position of its own."""
    found = rename(state, (r"^reg_token", "register_tokens"))
    if swiglu:
        found = rename(found, (r"mlp\.fc1", "mlp.w12"), (r"mlp\.fc2", "mlp.w3"))
    if "register_tokens" in found:  # halves add up exactly
        half = found["cls_token"] / 2
        positions = np.concatenate([half, found["pos_embed"]], axis=1)
        found |= {"cls_token": half, "pos_embed": positions}
    return found | {"mask_token": np.ones_like(found["cls_token"][0])}


def kuangliu(state):
    """The names of kuangliu's ResNets for CIFAR."""
    return rename(state, (r"downsample", "shortcut"), (r"^fc\.", "linear."))


def rename(state, *changes):
    """The state with each (regex, replacement) made to its names."""
    for pattern, replacement in changes:
        state = {re.sub(pattern, replacement, name): value for name, value in state.items()}
    return state


def _depth(state):
    return len([name for name in state if name.endswith(".norm1.weight")])
