"""Train an image classifier in JAX.

  python train_jax.py --config configs/vit_cifar10.py
  python train_jax.py --config configs/vit_cifar10.py --config.train.epochs=5

Every field of a config can be changed by --config.GROUP.FIELD=VALUE;
configs/common.py lists them all with their meaning. Running the same command
again goes on after an interruption.
"""

import sys

from jax_train.commands import train
from jax_train.errors import run_command

if __name__ == "__main__":
    sys.exit(run_command(lambda: train.run_line(sys.argv[1:], "python train_jax.py")))
