"""oneDNN, the library PyTorch computes with on CPUs, for use in compiled JAX functions.

Its C API, version 3 (https://uxlfoundation.github.io/oneDNN/v3.2/), is called through ctypes; the
library comes from the package onednn-cpu-gomp. What is computed with it is in `kernels.py`.
"""

import ctypes
import functools
import math
import os
import threading
from collections.abc import Callable
from importlib import metadata

import jax
import jax.numpy as jnp
import numpy as np

from jax_models.cpu import ffi

_PACKAGE, _LIBRARY = "onednn-cpu-gomp", "libdnnl.so.3"
# How its threads wait: a little while, because XLA's threads need the cores too.
_WAITING = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "100000"}

# Values of oneDNN's enumerations.
_CPU, _IN_ORDER, _FLOAT32, _ANY_LAYOUT, _IMPLEMENTATION = 1, 1, 3, 1, 8
MULTIPLY = 0x1FFF1
TRAINING, DIRECT, SOFTMAX = 64, 1, 0x30000
KERNEL_LAYOUT, KERNEL_GRADIENT_LAYOUT = 131, 132
SRC, DST, WEIGHTS, BIAS = 1, 17, 33, 41
GRADIENT = 128  # marks the gradient of one of the four above
FACTOR = 32768 | 2  # what a result is multiplied by, see `Library.matmul`
_ALIGNMENT = 64  # bytes


@functools.cache
def library() -> "Library | None":
    """The library; None where it is not installed or does not load."""
    try:
        return Library()
    except (OSError, metadata.PackageNotFoundError):
        return None


def usable(*arrays: jax.Array) -> bool:
    """Whether these can be computed with: float32, on the only device, and the library is there."""
    return (
        all(array.dtype == jnp.float32 for array in arrays)
        and jax.device_count() == 1
        and library() is not None
    )


class Kernel:
    """A custom call whose primitives are built for each set of shapes it meets.

    Args:
      build: `build(library, shapes, *integers) -> Operation`; shapes are those of the arguments
        and then of the results, integers are in the order of their names.
    """

    _lock = threading.Lock()  # an operation's memory serves one call at a time

    def __init__(self, build: Callable[..., "Operation"]):
        self.name = f"jax_models{build.__name__}"
        self._build = build
        self._prepare = functools.cache(self._prepare)
        self._register = functools.cache(lambda: ffi.register(self.name, self._run))

    def _prepare(self, shapes, integers):
        return self._build(library(), shapes, *integers)

    def is_fast(self, *shapes: tuple[int, ...], **integers: int) -> bool:
        """Whether oneDNN has more than its reference code for shapes of arguments and results."""
        with self._lock:
            ordered = tuple(integers[name] for name in sorted(integers))
            return self._prepare(shapes, ordered).is_fast

    def __call__(self, results, *args: jax.Array, **integers: int):
        """Make the call part of a traced function; `results` are the shapes of its results."""
        self._register()
        call = jax.ffi.ffi_call(self.name, results, vmap_method="sequential")
        return call(*args, **{name: np.int64(value) for name, value in integers.items()})

    def _run(self, shapes, addresses, integers):
        with self._lock:
            self._prepare(shapes, tuple(integers)).run(addresses)


class Operation:
    """Primitives that run one after the other on buffers given anew each time.

    Args:
      library: where they come from.
      *views: of the buffers: the layout of the next one, or (layout, number of the buffer, first
        value).
    """

    def __init__(self, library: "Library", *views):
        self._library, self._primitives, self.is_fast = library, [], True
        self._temporaries, self._scratch = [], 0
        self._places, self.views, count = [], [], 0
        for view in views:
            layout, number, first = view if isinstance(view, tuple) else (view, None, 0)
            if number is None:
                number, count = count, count + 1
            self._places.append((number, 4 * first))
            self.views.append(library.memory(layout))

    def add(self, description, memories: dict[int, ctypes.c_void_p]) -> None:
        """Add a primitive, with a memory object for each of its arguments."""
        arguments = (_Argument * len(memories))(*(_Argument(k, m) for k, m in memories.items()))
        primitive = self._library.new("primitive_create", description)
        self._primitives.append((primitive, len(memories), arguments))
        self.is_fast &= "ref" not in self._library.implementation(description)

    def add_copy(self, source, source_layout, target, target_layout) -> None:
        """Add a copy between two layouts."""
        engine = self._library.engine
        description = self._library.new(
            "reorder_primitive_desc_create", source_layout, engine, target_layout, engine, None
        )
        self.add(description, {SRC: source, DST: target})

    def temporary(self, layout) -> ctypes.c_void_p:
        """Memory for the time of a run; all operations share it, for they run one by one."""
        memory = self._library.memory(layout)
        self._temporaries.append((memory, self._scratch))
        self._scratch += -(-self._library.size(layout) // _ALIGNMENT) * _ALIGNMENT
        return memory

    def run(self, addresses: list[int]) -> None:
        """Compute."""
        place, execute = self._library.place, self._library.execute
        for view, (number, offset) in zip(self.views, self._places, strict=True):
            place(view, addresses[number] + offset)
        if self._temporaries:
            scratch = self._library.scratch(self._scratch)
            for memory, offset in self._temporaries:
                place(memory, scratch + offset)
        for primitive, count, arguments in self._primitives:
            execute(primitive, count, arguments)


class _Argument(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int), ("memory", ctypes.c_void_p))


class Library:
    """oneDNN, loaded, with one engine and one stream.

    Raises:
      OSError: it cannot be loaded.
      importlib.metadata.PackageNotFoundError: it is not installed.
    """

    def __init__(self):
        self._dll = _load()
        self._dll.dnnl_primitive_desc_query_md.restype = ctypes.c_void_p
        self._place = self._dll.dnnl_memory_set_data_handle
        self._place.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
        self._execute = self._dll.dnnl_primitive_execute
        self._dll.dnnl_memory_desc_get_size.restype = ctypes.c_size_t
        self._buffer = np.empty(0, np.uint8)
        self.engine = self.new("engine_create", _CPU, ctypes.c_size_t(0))
        self._stream = self.new("stream_create", self.engine, _IN_ORDER)

    def call(self, function: str, *args) -> None:
        """Call a function that returns a status."""
        _check(getattr(self._dll, f"dnnl_{function}")(*args), function)

    def new(self, function: str, *args) -> ctypes.c_void_p:
        """Call a function that makes an object."""
        result = ctypes.c_void_p()
        self.call(function, ctypes.byref(result), *args)
        return result

    def place(self, memory, address: int) -> None:
        """Have a memory object stand for the values at an address."""
        _check(self._place(memory, address), "memory_set_data_handle")

    def execute(self, primitive, count: int, arguments) -> None:
        """Run a primitive and wait for it."""
        _check(self._execute(primitive, self._stream, count, arguments), "primitive_execute")

    def size(self, layout) -> int:
        """Bytes of an array."""
        return self._dll.dnnl_memory_desc_get_size(layout)

    def scratch(self, size: int) -> int:
        """Address of that much memory, aligned; what it held may be gone."""
        if self._buffer.size < size + _ALIGNMENT:
            self._buffer = np.empty(size + _ALIGNMENT, np.uint8)
        return -(-self._buffer.ctypes.data // _ALIGNMENT) * _ALIGNMENT

    def layout(self, shape, order=None, *, strides=None, fixed: bool = True):
        """Describe where values lie.

        Args:
          shape: of an array in memory, rows first.
          order: which axis in memory each axis of oneDNN's is; by default the same.
          strides: of the axes in memory, in values, where the array is part of another.
          fixed: False leaves the layout to the primitive.
        """
        order = range(len(shape)) if order is None else order
        sizes = longs(*(shape[axis] for axis in order))
        if not fixed:
            kind = "memory_desc_create_with_tag"
            return self.new(kind, len(order), sizes, _FLOAT32, _ANY_LAYOUT)
        strides = strides or [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
        kind = "memory_desc_create_with_strides"
        ordered = longs(*(strides[axis] for axis in order))
        return self.new(kind, len(order), sizes, _FLOAT32, ordered)

    def chosen(self, description, what: int) -> ctypes.c_void_p:
        """A layout that a primitive chose."""
        return ctypes.c_void_p(self._dll.dnnl_primitive_desc_query_md(description, what, 0))

    def implementation(self, description) -> str:
        """Name of the code behind a primitive; 'ref' in it marks reference code."""
        name = ctypes.c_char_p()
        self.call("primitive_desc_query", description, _IMPLEMENTATION, 0, ctypes.byref(name))
        return name.value.decode()

    def memory(self, layout) -> ctypes.c_void_p:
        """A memory object for a buffer that is given later."""
        return self.new("memory_create", layout, self.engine, None)

    def matmul(self, a, b, out, *, bias=None, factor=None) -> ctypes.c_void_p:
        """Describe out = a·b (+ bias), entry by entry times an array laid out as `factor`."""
        attributes = None
        if factor is not None:
            what = self.new("post_ops_create")
            self.call("post_ops_append_binary", what, MULTIPLY, factor)
            attributes = self.new("primitive_attr_create")
            self.call("primitive_attr_set_post_ops", attributes, what)
        return self.new("matmul_primitive_desc_create", self.engine, a, b, bias, out, attributes)


def _load() -> ctypes.CDLL:
    files = metadata.files(_PACKAGE) or []
    path = next((file.locate() for file in files if file.name == _LIBRARY), _LIBRARY)
    before = dict(os.environ)
    for name, value in _WAITING.items():
        os.environ.setdefault(name, value)
    try:
        return ctypes.CDLL(str(path))
    finally:
        for name in _WAITING.keys() - before.keys():
            del os.environ[name]


def longs(*values: int):
    """A C array of 64-bit integers."""
    return (ctypes.c_int64 * len(values))(*values)


def _check(status: int, function: str) -> None:
    if status:
        raise RuntimeError(f"oneDNN's {function} gave status {status}")
