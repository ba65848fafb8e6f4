"""The pieces, in the order in which they are carried out."""

import functools

from benchmarks.accelerator import device, proofs, recipes, speed
from benchmarks.accelerator.pieces import Piece

PIECES = {
    "device": Piece("", lambda job: {"device": device.describe}, None, needs=0),
    "parity": Piece(
        "Parity in float32",
        proofs.parity,
        proofs.text_of_parity,
        "The ladder of [parity.md](parity.md): models on the device, their PyTorch mirrors on the "
        "host's CPU, the same weights and inputs; products of matrices in full float32. In "
        "brackets what has no bar in float32.",
    ),
    "layouts": Piece(
        "Layouts",
        proofs.layouts,
        proofs.text_of_layouts,
        "30 steps in full float32 at the published sizes, beside the same steps on one device: "
        "largest relative difference of the first loss, of all losses, and of all parameters and "
        "statistics together. Rounding grows in training, most by batch norm; `accumulate` with "
        "batch norm is another computation ([distributed.md](distributed.md)). With "
        "`--xla_gpu_deterministic_ops=true`, without which GPUs do not repeat their bits "
        "([reliability.md](reliability.md)).",
        environment={"XLA_FLAGS": "--xla_gpu_deterministic_ops=true"},
    ),
    "quiet": Piece(
        "Nothing compiled, nothing moved",
        proofs.quiet,
        proofs.text_of_quiet,
        "Four epochs of the training loop's calls under `jax.transfer_guard('disallow')`: a "
        "transfer that was not asked for would be an error.",
    ),
    "host": Piece(
        "The host's share",
        speed.host_time,
        speed.text_of_host,
        "Models so small that little is computed: a step of the training loop with its log, and of "
        "the loop's compiled calls by themselves, which take several steps each.",
    ),
    "train": Piece(
        "Training steps",
        speed.train,
        speed.text_of_train,
        "The recipes at their batch sizes, random images, augmentation and optimizer included; "
        "images per second by the median of steps. float32 is `jax_default_matmul_precision` "
        "'highest', tf32 'tensorfloat32' (on TPUs three bfloat16 products), bfloat16 "
        '`config.dtype = "bfloat16"`. Utilisation: operations of the products and convolutions of '
        "forward and backward pass (an addition counts as one), as a share of the peak that the "
        "maker names for that precision, without sparsity; where none is known, TFLOP/s. Memory: "
        "state and step as the compiled program counts them; PyTorch's peak of what it allocated; "
        "both without the data set. One device on both sides. PyTorch: the mirror "
        "eager, `channels_last` (CNNs), by `torch.compile`, and by it with CUDA graphs "
        "(`reduce-overhead`), with fused attention and optimizer; bfloat16 by `torch.autocast`.",
    ),
    "torch": Piece("", speed.pytorch, None, environment={"JAX_PLATFORMS": "cpu"}),
    "airbench": Piece(
        "airbench94 to 94 %",
        recipes.airbench94,
        functools.partial(recipes.text, "airbench"),
        "Top-1 on CIFAR-10's test images with the views of `airbench`, seed 0; seconds with "
        "everything, compilation too.",
        needs=0,
        alone=True,
    ),
    "recipes": Piece(
        "The recipes to their end",
        recipes.long,
        functools.partial(recipes.text, "recipes"),
        "As in [results.md](results.md), seed 0. PFLOP by XLA's count of the compiled step.",
        needs=0,
        alone=True,
    ),
}
