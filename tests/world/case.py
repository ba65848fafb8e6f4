"""A model of another library with random weights: what it computes, and its file of them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

CLASSES = 11
# Sizes that are distinct primes where they fit, so that a swapped axis cannot pass.
SIDE, OTHER_SIDE, PATCH = 35, 49, 7
WIDTH, HEADS, DEPTH, MLP = 39, 3, 2, 53
CNN_SIDE, CNN_OTHER_SIDE = 64, 75
_TOKENS = ("cls_token", "class_token", "dist_token", "reg_token", "pos_embed", "mask_token")
_TOKENS += ("distillation_token", "register_tokens", "position_embeddings", "pos_embedding")
_HEADS = ("head", "head_dist", "fc", "classifier", "cls_classifier", "distillation_classifier")
_HEADS += ("head.fc", "classifier.1", "classifier.2", "heads.head")


class Outputs(NamedTuple):
    """What a model says of images: logits [B,K], the last block's output, each block's attention.

    Feature maps are channels-first, tokens [B,T,D], attention [B,h,T,T].
    """

    logits: Tensor
    features: Tensor
    attention: tuple[Tensor, ...] = ()


@dataclass
class Case:
    """A model of a library.

    Attributes:
      library: its name.
      name: of the model there.
      model: in evaluation mode.
      run: `f(model, images)` gives `Outputs`.
      save: `f(model, folder)` writes it as the library does, and returns what to load.
      reload: `f(folder)` loads that again, strictly.
      at: `f(model, folder, side)` gives a function of images of another side to logits.
      settings: keywords of `load_pretrained`.
      layout: of this project, by whose names the library's file goes; None: it has none.
      side, other_side: of the images, in pixels.
      batch: number of images.
      renamed: words in the names of the file -> what this project calls them.
      unlike: ends of names of positions whose first is, in this project, a part of the class token:
        both have the same gradient, which counts once.
      in_float32: rungs that a model with attention works out in float32 in parts, whatever its
        own precision: resized positions are stored so, in the libraries and here.
    """

    library: str
    name: str
    model: nn.Module
    run: Callable[[nn.Module, Tensor], Outputs]
    save: Callable[[nn.Module, Path], Path]
    reload: Callable[[Path], nn.Module]
    at: Callable[[nn.Module, Path, int], Callable[[Tensor], Tensor]]
    settings: dict[str, Any] = field(default_factory=dict)
    layout: str | None = None
    side: int = SIDE
    other_side: int = OTHER_SIDE
    batch: int = 3
    renamed: dict[str, str] = field(default_factory=dict)
    unlike: tuple[str, ...] = ()
    in_float32: tuple[str, ...] = ("other size",)


def stir(model: nn.Module, run: Callable[[nn.Module, Tensor], Outputs], side: int) -> nn.Module:
    """Give a model random weights, none at its trivial value, and logits of order 1; return it."""
    random = torch.Generator().manual_seed(sum(p.numel() for p in model.parameters()))

    def noise(tensor):
        return torch.randn(tensor.shape, generator=random)

    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.rsplit(".", 1)[-1] in _TOKENS:
                p.copy_(0.5 * noise(p))
            elif name.endswith("bias"):
                p.copy_(0.2 * noise(p))
            elif p.shape.numel() == max(p.shape):  # norms and scales, also [D,1,1]
                p.copy_(0.7 + 0.2 * noise(p))
            else:
                p.copy_(noise(p) / p[0].numel() ** 0.5)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(0.2 * noise(buffer))
            elif name.endswith("running_var"):
                buffer.copy_(0.7 + 0.2 * noise(buffer).abs())
            elif name.endswith("num_batches_tracked"):
                buffer.fill_(5)
        model.eval()
        images = torch.randn((4, 3, side, side), generator=random)
        scale = run(model, images).logits.std()
        for name in _HEADS:
            try:
                layer = model.get_submodule(name)
            except AttributeError:
                continue
            if isinstance(layer, nn.Linear):
                layer.weight /= scale
                layer.bias /= scale
    return model


def watched(model: nn.Module, images: Tensor, last: nn.Module, watch: Iterable = ()) -> Outputs:
    """Run a model and look at the output of its last block, and at what `watch` says of modules.

    Args:
      model: gives logits, or a thing that has them.
      images: [B,C,H,W].
      last: its last block or stage.
      watch: (module, f(module, inputs, output)) for the attention of each block.
    """
    features, attention, hooks = [], [], []

    def keep(module, inputs, output):
        features.append(output if isinstance(output, Tensor) else output[0])

    hooks.append(last.register_forward_hook(keep))
    for module, say in watch:

        def note(module, inputs, output, say=say):
            attention.append(say(module, inputs, output))

        hooks.append(module.register_forward_hook(note))
    try:
        output = model(images)
    finally:
        for hook in hooks:
            hook.remove()
    logits = output if isinstance(output, Tensor) else output.logits
    return Outputs(logits, features[-1], tuple(attention))


def with_gradients(model: nn.Module, copy: nn.Module) -> nn.Module:
    """Put the gradients of a model where a copy of it has its weights; return the copy."""
    with torch.no_grad():
        for p, own in zip(model.parameters(), copy.parameters(), strict=True):
            own.copy_(torch.zeros_like(own) if p.grad is None else p.grad)
    return copy


def to_torch(images: np.ndarray) -> Tensor:
    """[B,H,W,C] -> [B,C,H,W]."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
