"""How a step is spread over devices: a mesh over all local devices, the batch split along it."""

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jax_train.errors import UserError


class Layout:
    """A one-axis mesh named `data`: state and data set replicated, batches sharded.

    The compiled step is the same on one device and on many; XLA adds the communication. Batch norm
    therefore sees the statistics of the whole batch.

    Args:
      devices: the devices to use; by default all local ones.
    """

    def __init__(self, devices=None):
        devices = jax.local_devices() if devices is None else list(devices)
        # Auto: the default, Explicit, has no rule for the reshape that cuts sharded images up.
        self.mesh = jax.make_mesh(
            (len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices
        )
        self.num_devices = len(devices)
        self.replicated = NamedSharding(self.mesh, PartitionSpec())
        self._batch = NamedSharding(self.mesh, PartitionSpec("data"))

    def replicate(self, tree):
        """Copy a pytree of arrays to every device."""
        return jax.device_put(tree, self.replicated)

    def shard_batch(self, array: jax.Array) -> jax.Array:
        """Inside a compiled function: split axis 0 of an array over the devices."""
        return jax.lax.with_sharding_constraint(array, self._batch)

    def round_up(self, batch_size: int) -> int:
        """The smallest multiple of the number of devices that is at least batch_size."""
        return -(-batch_size // self.num_devices) * self.num_devices

    def check_batch_size(self, batch_size: int) -> None:
        """Raise a UserError unless the devices divide the batch, naming sizes that work."""
        if batch_size % self.num_devices:
            above = self.round_up(batch_size)
            below = above - self.num_devices
            raise UserError(
                f"config.train.batch_size={batch_size} cannot be split evenly over "
                f"{self.num_devices} devices: use {f'{below} or ' if below else ''}{above}."
            )
