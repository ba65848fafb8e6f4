"""The PyTorch side: the mirrors as a careful user would train them.

Everything that helped on a CPU is on: fused optimizer, `channels_last` for CNNs, PyTorch's own
fused attention, augmentation of whole batches; `compiled` adds `torch.compile`. What is to be
computed in bfloat16 is by `torch.autocast`.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from ml_collections import ConfigDict
from torch.nn import functional
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

import jax_models
import torch_ref
from benchmarks import tasks
from torch_ref import layers


def library_model(name: str) -> torch.nn.Module:
    """torchvision's model of a name where it has one, otherwise timm's; 1000 classes."""
    import timm
    import torchvision

    if name.startswith("resnet"):
        return torchvision.models.get_model(name)
    return timm.create_model(name)


def is_cnn(name: str) -> bool:
    """Whether a model is made of convolutions, which like `channels_last`."""
    return "patch_size" not in jax_models.model_keywords(name)


def create_model(config: ConfigDict, *, fused_attention: bool = True) -> torch.nn.Module:
    """The mirror of `config.model` for the images of the data set, without attention maps."""
    if fused_attention:
        layers.attend = lambda attention, x: (attention(x, x, x, need_weights=False)[0], None)
        layers.self_attention = _fused
    name, model = config.model.name, config.model
    known = jax_models.model_keywords(name)  # the sizes of a name are not those of its family
    given = known | {key: model[key] for key in known if model[key] is not None}
    height, _, channels = tasks.image_shape(config)
    facts = {"img_size": height, "in_channels": channels}
    given |= {key: value for key, value in facts.items() if key in known}
    return torch_ref.create_model(jax_models.family(name), **given)


def _fused(qkv, num_heads, dropout=None, *, scale=None, others_only=False):
    b, t, three = qkv.shape
    q, k, v = qkv.view(b, t, 3, num_heads, -1).permute(2, 0, 3, 1, 4)
    how = {"dropout_p": dropout.p if dropout is not None and dropout.training else 0.0}
    if scale is not None:
        q, how["scale"] = q * scale[:, None, None], 1.0
    if others_only:
        how["attn_mask"] = ~torch.eye(t, dtype=torch.bool, device=qkv.device)
    y = functional.scaled_dot_product_attention(q, k, v, **how)
    return y.transpose(1, 2).reshape(b, t, three // 3), None


class Pipeline:
    """uint8 images [B,C,H,W] to what the model takes, whole batches at a time."""

    def __init__(self, config: ConfigDict, memory_format=torch.contiguous_format, device="cpu"):
        self.fields, self.memory_format, self.device = config.augment, memory_format, device
        mean, std = (
            torch.tensor(values, device=device).view(1, -1, 1, 1)
            for values in (config.data.mean, config.data.std)
        )
        self.scale, self.shift = 1 / (255 * std), mean / std

    def __call__(self, images: torch.Tensor, *, train: bool) -> torch.Tensor:
        """Augment, if `train`, and normalise."""
        fields, count = self.fields, len(images)
        if fields.resize:
            how = {"mode": "bilinear", "antialias": True, "align_corners": False}
            images = functional.interpolate(images.float(), (fields.resize,) * 2, **how)
        if train and fields.rotate_degrees:
            images = self._rotate(images)
        if train and fields.crop_padding:
            p, (h, w) = fields.crop_padding, images.shape[2:]
            windows = functional.pad(images, (p, p, p, p)).unfold(2, h, 1).unfold(3, w, 1)
            top, left = torch.randint(0, 2 * p + 1, (2, count), device=self.device)
            images = windows[torch.arange(count, device=self.device), :, top, left]
        if train and fields.flip:
            flips = torch.rand(count, 1, 1, 1, device=self.device) < 0.5
            images = torch.where(flips, images.flip(3), images)
        images = images.float() * self.scale - self.shift
        return images.contiguous(memory_format=self.memory_format)

    def _rotate(self, images):
        turn = torch.rand(len(images), device=self.device) * 2 - 1
        angle = turn * (self.fields.rotate_degrees * np.pi / 180)
        zero = torch.zeros_like(angle)
        theta = torch.stack([angle.cos(), -angle.sin(), zero, angle.sin(), angle.cos(), zero], 1)
        grid = functional.affine_grid(theta.view(-1, 2, 3), list(images.shape), align_corners=False)
        return functional.grid_sample(images, grid, mode="nearest", align_corners=False)


class Training:
    """Model, optimizer and data of a recipe.

    Args:
      config: see `tasks.config_of`; in "bfloat16" by `torch.autocast`.
      images: uint8 [N,H,W,C].
      labels: [N].
      compiled: by `torch.compile`, or the name of one of its modes.
      fused_attention: PyTorch's own, which returns no maps.
      library: timm's or torchvision's model and not the mirror.
      channels_last: of CNNs.
      device: where all of it lies.
    """

    def __init__(
        self,
        config,
        images,
        labels,
        *,
        compiled=False,
        fused_attention=True,
        library=False,
        channels_last=True,
        device="cpu",
    ):
        torch.manual_seed(0)
        channels_last &= is_cnn(config.model.name)
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        if library:
            model = library_model(config.model.name)
        else:
            model = create_model(config, fused_attention=fused_attention)
        self.model = model.train().to(device, memory_format=memory_format)
        self.pipeline = Pipeline(config, memory_format, device)
        self.optimizer = _optimizer(config, self.model.parameters())
        torch.compiler.reset()  # or a second batch size is compiled for any size
        how = {"mode": compiled} if isinstance(compiled, str) else {}
        self.run = torch.compile(self.model, **how) if compiled else self.model
        self.images = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(device)
        self.labels = torch.from_numpy(labels).long().to(device)
        self.device, self.is_low = device, config.dtype == "bfloat16"
        self.batch_size, self.eval_batch_size = config.train.batch_size, config.eval.batch_size
        self.label_smoothing = config.train.label_smoothing

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device, torch.bfloat16, enabled=self.is_low)

    def step(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """One optimizer step on raw images; returns the loss."""
        self.optimizer.zero_grad(set_to_none=True)
        images, smoothing = self.pipeline(images, train=True), self.label_smoothing
        with self._precision():
            logits = self.run(images)
        loss = functional.cross_entropy(logits.float(), labels, label_smoothing=smoothing)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def train_steps(self, count: int) -> int:
        """`count` steps on random batches; returns the number of images."""
        for _ in range(count):
            size = (self.batch_size,)
            index = torch.randint(0, len(self.images), size, device=self.device)
            self.step(self.images[index], self.labels[index])
        self._wait()
        return count * self.batch_size

    def _wait(self) -> None:
        if self.device != "cpu":
            torch.accelerator.synchronize()

    @torch.inference_mode()
    def eval_steps(self, count: int) -> int:
        """Logits of `count` batches of the evaluation's size; returns the number of images."""
        self.model.eval()
        images = self.images[: self.eval_batch_size]
        with self._precision():  # which casts the weights once for all batches
            for _ in range(count):
                self.run(self.pipeline(images, train=False)).argmax(1)
        self._wait()
        self.model.train()
        return count * len(images)

    def epoch(self) -> int:
        """A whole epoch: train, validate, log and save; returns the number of images."""
        data = TensorDataset(self.images, self.labels)
        order = BatchSampler(RandomSampler(data), self.batch_size, drop_last=True)
        # A sampler of whole batches spares collating them image by image.
        loader = DataLoader(data, sampler=order, batch_size=None)
        total = torch.zeros(())
        for images, labels in loader:
            total += self.step(images, labels)
        float(total)
        self.model.eval()
        right = torch.zeros((), dtype=torch.long)
        few = (part[: len(part) // 5].split(self.eval_batch_size) for part in data.tensors)
        with torch.inference_mode(), self._precision():
            for images, labels in zip(*few, strict=True):
                right += (self.run(self.pipeline(images, train=False)).argmax(1) == labels).sum()
        int(right)
        self.model.train()
        with tempfile.TemporaryDirectory() as folder:
            state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
            torch.save(state, Path(folder) / "checkpoint.pt")
        return len(self.images)


def _optimizer(config: ConfigDict, parameters) -> torch.optim.Optimizer:
    fields = config.optim
    how = {"lr": fields.learning_rate, "weight_decay": fields.weight_decay, "fused": True}
    if fields.name == "sgd":
        how |= {"momentum": fields.momentum, "nesterov": fields.nesterov}
        return torch.optim.SGD(parameters, **how)
    make = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[fields.name]
    return make(parameters, betas=(fields.beta1, fields.beta2), eps=fields.eps, **how)
