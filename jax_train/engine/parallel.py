"""How steps are spread over devices: the only place that knows of meshes, shards and pmap.

The step itself is one pure function (`engine.steps`). It asks its layout for this device's share
of a batch, for means over the devices and for totals. Under `jit` arrays are global and XLA
adds the communication, so the last two do nothing; under `pmap` a device sees its share only.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from jax_train.config import ranges
from jax_train.engine.checks import mixes
from jax_train.printing import counted

# Smaller arrays are not worth a message of their own.
_LEAST_SHARDED = 1024


class Memory(NamedTuple):
    """Bytes on each device, as the compiled program counts them, without the data set."""

    state: int
    step: int


class Layout:
    """`jit` over a mesh with the axes `data` and `fsdp`; the batch is split over both.

    Parameters and optimizer state are whole on every device, or, with `fsdp` above 1, split over
    that axis (ZeRO stage 3, https://arxiv.org/abs/1910.02054); XLA gathers them where needed.
    Batch norm sees the statistics of the whole batch.

    Args:
      devices: the devices to use; by default all, those of other processes too.
      fsdp: devices that share one copy of the state; divides their number.
    """

    name = "jit"
    axis_name = None  # that batch norm averages over
    shares = 1  # into which a compiled function sees an array divided

    def __init__(self, devices: Sequence | None = None, *, fsdp: int = 1):
        devices = jax.devices() if devices is None else list(devices)
        shape = (len(devices) // fsdp, fsdp)
        # Auto: the default, Explicit, has no rule for the reshape that cuts sharded images up.
        self.mesh = jax.make_mesh(
            shape, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2, devices=devices
        )
        self.num_devices, self.fsdp = len(devices), fsdp
        self.replicated = NamedSharding(self.mesh, PartitionSpec())
        self._waits = devices[0].platform == "cpu" and len(devices) > 1

    def describe(self) -> str:
        """The layout in a few words."""
        kind = f"{self.mesh.shape['data']} data x {self.fsdp} fsdp" if self.fsdp > 1 else self.name
        return f"{counted(self.num_devices, 'device')} ({kind})"

    # Placing arrays

    def replicate(self, tree):
        """Copy a pytree of arrays to every device."""
        if jax.process_count() == 1:
            return jax.device_put(tree, self.replicated)

        def put(array):
            array = np.asarray(array)
            return jax.make_array_from_callback(array.shape, self.replicated, array.__getitem__)

        return jax.tree.map(put, tree)

    def state_shardings(self, state):
        """Where each leaf of a state (arrays or shapes) lies: whole, or split over `fsdp`."""
        return jax.tree.map(self._state_sharding, state)

    def _state_sharding(self, leaf) -> NamedSharding:
        sizes = [size if size % self.fsdp == 0 else 0 for size in leaf.shape]
        if self.fsdp == 1 or leaf.size < _LEAST_SHARDED or not any(sizes):
            return self.replicated
        axis = sizes.index(max(sizes))
        return NamedSharding(self.mesh, PartitionSpec(*[None] * axis, "fsdp"))

    def _batch_sharding(self, axis: int) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec(*[None] * axis, ("data", "fsdp")))

    def local_places(self, batch_size: int) -> np.ndarray:
        """Places in a batch whose examples this process has to supply, ascending."""
        shards = self._batch_sharding(0).addressable_devices_indices_map((batch_size,)).values()
        return np.unique(np.concatenate([np.arange(batch_size)[index] for index in shards]))

    def put_batch(self, array: np.ndarray, axis: int) -> jax.Array:
        """Spread a batch over the devices; `array` holds this process's places along `axis`."""
        return jax.make_array_from_process_local_data(self._batch_sharding(axis), array)

    # Inside a compiled function

    def shard_batch(self, array: jax.Array, axis: int = 0) -> jax.Array:
        """This device's share of an array that all devices have whole."""
        return jax.lax.with_sharding_constraint(array, self._batch_sharding(axis))

    def shard_state(self, tree):
        """Have leaves that are shaped as the state, such as gradients, lie where the state does."""
        if self.fsdp == 1:
            return tree
        return jax.lax.with_sharding_constraint(tree, self.state_shardings(tree))

    def locally(self, function: Callable) -> Callable:
        """A function of arrays of a batch, done by each device on its share: it sends nothing."""
        if self.num_devices == 1:
            return function
        spec = self._batch_sharding(0).spec
        return jax.shard_map(function, mesh=self.mesh, in_specs=spec, out_specs=spec)

    def mean(self, tree):
        """Mean over the devices of what each computed from its share."""
        return tree

    def total(self, tree):
        """Sum over the devices of what each computed from its share."""
        return tree

    # Compiling and running

    def compile(self, function: Callable, args: tuple, *, donate=(), out=None, batch=None):
        """Compile a function for these arguments.

        Args:
          function: pure.
          args: arrays, or shapes with shardings, as it will be called with.
          donate: numbers of the arguments whose memory it may take over.
          out: shardings of the results; by default whole on every device.
          batch: number of the argument that `put_batch` made, if there is one.

        Returns:
          A callable, with `memory_analysis()` and `as_text()`.
        """
        out = self.replicated if out is None else out
        jitted = jax.jit(function, donate_argnums=donate, out_shardings=out)
        return jitted.lower(*args).compile(compiler_options=compiler_options(bool(donate)))

    def wait(self, result) -> None:
        """Let virtual CPU devices finish: XLA's threads run dry with many steps under way."""
        if self._waits:
            jax.block_until_ready(result)

    def check_batch_size(self, batch_size: int, parts: int = 1, pairs: bool = False) -> None:
        """Raise a UserError unless devices and parts divide the batch, naming sizes that work.

        With `pairs`, into even numbers of images.
        """
        unit = self.num_devices * parts * (1 + pairs)
        if batch_size % unit:
            above = -(-batch_size // unit) * unit
            sizes = f"{above - unit} or {above}" if above > unit else f"{above}"
            devices = counted(self.num_devices, "device")
            each = f" in {parts} parts each (config.train.accumulate_steps)" if parts > 1 else ""
            each += ", in pairs that are mixed (config.augment.mixup, cutmix)" * pairs
            expected = f"a multiple of {unit}, to be split over {devices}{each}"
            raise ranges.refusal("train.batch_size", batch_size, expected, f"Use {sizes}.")


class PmapLayout(Layout):
    """`jax.pmap` over all devices of one process: each runs the step on its share of the batch.

    JAX keeps pmap in maintenance, built on jit and shard_map. State and data set have no device
    axis: they are passed whole to every device (`in_axes=None`), so checkpoints fit both layouts.
    """

    name = "pmap"
    axis_name = "data"

    def __init__(self, devices: Sequence | None = None):
        super().__init__(devices)
        self._devices = list(self.mesh.devices.flat)
        self.shares = self.num_devices
        # pmap wants one argument that is split; a device's number is also its place.
        self._numbers = jax.device_put(np.arange(self.num_devices), self._batch_sharding(0))

    def put_batch(self, array: np.ndarray, axis: int) -> jax.Array:
        """As in `Layout`, with a leading axis for the device."""
        parts = np.stack(np.split(array, self.num_devices, axis))
        return jax.device_put(parts, self._batch_sharding(0))

    def shard_batch(self, array: jax.Array, axis: int = 0) -> jax.Array:
        """As in `Layout`."""
        share = array.shape[axis] // self.num_devices
        start = jax.lax.axis_index(self.axis_name) * share
        return jax.lax.dynamic_slice_in_dim(array, start, share, axis)

    def locally(self, function):
        """As in `Layout`."""
        return function

    def mean(self, tree):
        """As in `Layout`."""
        return jax.lax.pmean(tree, self.axis_name)

    def total(self, tree):
        """As in `Layout`."""
        return jax.lax.psum(tree, self.axis_name)

    def compile(self, function, args, *, donate=(), out=None, batch=None):
        """As in `Layout`."""

        def on_device(_, *args):
            return function(*args)

        axes = (0, *(0 if i == batch else None for i in range(len(args))))
        how = {"axis_name": self.axis_name, "devices": self._devices, "in_axes": axes}
        how["donate_argnums"] = tuple(i + 1 for i in donate)
        mapped = jax.pmap(on_device, out_axes=None, **how)
        lowered = mapped.lower(self._numbers, *args)
        return _Numbered(
            lowered.compile(compiler_options=compiler_options(bool(donate))), self._numbers
        )


class _Numbered:
    """A compiled pmap that is given the devices' numbers as its first argument."""

    def __init__(self, compiled, numbers):
        self._compiled, self._numbers = compiled, numbers
        self.memory_analysis, self.as_text = compiled.memory_analysis, compiled.as_text

    def __call__(self, *args):
        return self._compiled(self._numbers, *args)


@functools.cache
def compiler_options(donates: bool) -> dict[str, bool | int]:
    """For XLA on CPUs, where it has them and XLA_FLAGS do not say otherwise.

    LLVM's level 1 makes steps as fast as level 3 does, in a fifth less time. Where a function
    `donates` arguments, an array is copied only if one has to be kept; by itself XLA first copies
    the whole state of an optimizer. To find that out takes long where there are many loops, as in
    the drawing of initial weights.
    """
    wanted = {"xla_backend_optimization_level": 1}
    wanted |= {"xla_cpu_copy_insertion_use_region_analysis": True} if donates else {}
    found = {}
    for name, value in wanted.items() if jax.default_backend() == "cpu" else ():
        if name not in os.environ.get("XLA_FLAGS", ""):
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                jax.jit(lambda: 0).lower().compile(compiler_options={name: value})
                found[name] = value
    return found


def create(config: ConfigDict, devices: Sequence | None = None) -> Layout:
    """Make the layout that `config.parallel` and `config.mesh` ask for, by default of all devices.

    Raises:
      UserError: the mesh does not fit the devices, or pmap was asked for what it cannot do.
    """
    devices = jax.devices() if devices is None else list(devices)
    count, data, fsdp = len(devices), config.mesh.data, config.mesh.fsdp
    if count % fsdp:
        fitting = ", ".join(str(n) for n in range(1, count + 1) if count % n == 0)
        expected = f"a divisor of the number of devices, which is {count}: {fitting}"
        raise ranges.refusal("mesh.fsdp", fsdp, expected)
    if data not in (0, count // fsdp):
        devices = counted(count, "device")
        expected = f"{count // fsdp}, which config.mesh.fsdp={fsdp} leaves of {devices}, or 0"
        raise ranges.refusal("mesh.data", data, expected)
    if config.parallel == "jit":
        return Layout(devices, fsdp=fsdp)
    if fsdp > 1 or jax.process_count() > 1:
        what = f"config.mesh.fsdp={fsdp}" if fsdp > 1 else f"{jax.process_count()} processes"
        cure = "pmap splits batches over the devices of one process and nothing else."
        raise ranges.refusal("parallel", config.parallel, f"'jit' with {what}", cure)
    return PmapLayout(devices)


def check(config: ConfigDict) -> None:
    """Check `config.parallel`, `config.mesh` and the size of batches against the devices.

    Raises:
      UserError: names the field, its value and what was expected.
    """
    train, pairs = config.train, mixes(config.augment)
    create(config).check_batch_size(train.batch_size, train.accumulate_steps, pairs)


def memory(compiled, state, data) -> Memory:
    """Bytes on each device of a compiled training step.

    Args:
      compiled: from `Layout.compile`.
      state: what it changes, as arrays.
      data: the data set on the device, left out of the figures.
    """

    def share(tree):
        return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))

    stats = compiled.memory_analysis()
    total = stats.argument_size_in_bytes + stats.output_size_in_bytes + stats.temp_size_in_bytes
    step = total - stats.alias_size_in_bytes - share(data) - share(state)
    return Memory(share(state), max(step, 0))
