"""oneDNN, the library PyTorch computes with on CPUs, for use in compiled JAX functions.

Its C API, version 3 (https://uxlfoundation.github.io/oneDNN/v3.2/), is called through ctypes; the
library comes from the package onednn-cpu-gomp. What is computed with it is in `kernels/`.
"""

import copy
import ctypes
import functools
import math
import os
import threading
import warnings
from collections.abc import Callable
from importlib import metadata
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_models.cpu import ffi

_PACKAGE, _LIBRARY = "onednn-cpu-gomp", "libdnnl.so.3"
# How its threads wait for work: a little while, because XLA's threads need the cores too. "active"
# is what makes them wait at all where there are more threads than cores, as with XLA's there are.
_WAITING = {"OMP_WAIT_POLICY": "active", "GOMP_SPINCOUNT": "10000"}

# Values of oneDNN's enumerations.
_CPU, _IN_ORDER, _ANY_LAYOUT, _IMPLEMENTATION, _RANK = 1, 1, 1, 8, 256
_BFLOAT16, FLOAT32, UINT8 = 2, 3, 6
_KINDS = {np.dtype(jnp.float32): FLOAT32, np.dtype(jnp.bfloat16): _BFLOAT16}
_BYTES = {_BFLOAT16: 2, FLOAT32: 4, UINT8: 1}
_XLAS = {11: FLOAT32, 16: _BFLOAT16}  # by XLA's numbers for dtypes
_HAS_BFLOAT16 = 0xE7  # the instruction set avx512_core_bf16: bits that all later ones have too
_ADD, _MULTIPLY, _RELU = 0x1FFF0, 0x1FFF1, 0x20
# A ReLU of oneDNN's makes 0 of NaN; where values below 0 have a slope, however small, NaN stays.
_SLOPE = 1e-30
TRAINING, DIRECT, SOFTMAX = 64, 1, 0x30000
KERNEL_LAYOUT, KERNEL_GRADIENT_LAYOUT, WORKSPACE_LAYOUT, _SCRATCHPAD_LAYOUT = 131, 132, 135, 136
SRC, DST, WEIGHTS, BIAS, WORKSPACE = 1, 17, 33, 41, 64
MAPS = 0, 3, 1, 2  # a map (B,C,H,W) lies as [B,H,W,C], see `Library.layout`
GRADIENT = 128  # marks the gradient of one of the four above
_AFTER = 32768  # times 1, 2, …: of the operations after a primitive
_SCRATCHPAD, _GIVEN_BY_CALLER = 80, 1
_ALIGNMENT = 64  # bytes
LEAST_FLOPS = 4e6  # fewer operations take less time than a call does


@functools.cache
def library() -> "Library | None":
    """The library; None where it is not installed or does not load, or XLA cannot call it."""
    try:
        found = Library()
        ffi.check()
    except (OSError, metadata.PackageNotFoundError):
        return None
    except ffi.Incompatible as error:
        warnings.warn(f"This JAX cannot call oneDNN, so XLA computes: {error}", stacklevel=2)
        return None
    return found


def usable(*arrays: jax.Array) -> bool:
    """Whether these can be computed with: on the only device, and the library is there.

    All have to be float32 or, where the processor computes with it, bfloat16.
    """
    dtype = arrays[0].dtype
    return (
        dtype in _KINDS
        and all(array.dtype == dtype for array in arrays)
        and jax.device_count() == 1
        and library() is not None
        and (dtype == jnp.float32 or library().has_bfloat16)
    )


def worth(flops: float, *arrays: jax.Array) -> bool:
    """Whether these can be computed with, and so many operations take longer than a call does."""
    return flops >= LEAST_FLOPS and usable(*arrays)


def trained(x, kernels: tuple, others: tuple) -> tuple:
    """What `defvjp(symbolic_zeros=True)` gives a forward function of one call, unwrapped.

    A custom call is made whole or not at all: XLA leaves out none of its results. So the gradient
    of kernels is asked for only where they train.

    Returns:
      (x, kernels, others, whether any of the kernels trains).
    """
    wanted = any(kernel.perturbed for kernel in kernels)
    kernels, others = (tuple(each.value for each in group) for group in (kernels, others))
    return x.value, kernels, others, wanted


def instantiated(gradients: tuple) -> tuple[jax.Array, ...]:
    """Gradients of which some may be symbolic zeros, as arrays."""
    zero = jax.custom_derivatives.SymbolicZero
    return tuple(
        jnp.zeros(each.shape, each.dtype) if isinstance(each, zero) else each for each in gradients
    )


class Kernel:
    """A custom call whose primitives are built for each set of shapes it meets.

    Args:
      build: `build(library, shapes, *integers) -> Operation`; the library is that of the first
        result's dtype, shapes are those of the arguments and then of the results, integers are in
        the order of their names.
    """

    _lock = threading.Lock()  # an operation's memory serves one call at a time

    def __init__(self, build: Callable[..., "Operation"]):
        self.name = f"jax_models{build.__name__}"
        self._build = build
        self._prepare = functools.cache(self._prepare)
        self._register = functools.cache(lambda: ffi.register(self.name, self._run))

    def _prepare(self, kind, shapes, integers):
        return self._build(library().of(kind), shapes, *integers)

    def is_fast(self, dtype, *shapes: tuple[int, ...], **integers: int) -> bool:
        """Whether oneDNN has more than its reference code for shapes of arguments and results."""
        with self._lock:
            ordered = tuple(integers[name] for name in sorted(integers))
            return self._prepare(_KINDS[dtype], shapes, ordered).is_fast

    def __call__(self, results, *args: jax.Array, **integers: int):
        """Make the call part of a traced function; `results` have the shapes of its results."""
        self._register()
        ffi.wait_at_exit()
        call = jax.ffi.ffi_call(self.name, results, vmap_method="sequential")
        return call(*args, **{name: np.int64(value) for name, value in integers.items()})

    def _run(self, dtype, shapes, addresses, integers):
        with self._lock:
            self._prepare(_XLAS[dtype], shapes, tuple(integers)).run(addresses)


class View(NamedTuple):
    """A memory object, and how the values lie in it."""

    memory: ctypes.c_void_p
    layout: ctypes.c_void_p


class Operation:
    """Primitives that run one after the other on buffers given anew each time.

    Args:
      library: where they come from.
      *views: of the buffers: the layout of the next one, or (layout, number of the buffer, first
        byte).
    """

    def __init__(self, library: "Library", *views):
        self._library, self._primitives, self.is_fast = library, [], True
        self._temporaries, self._scratch, self._constants = [], 0, []
        self._scratchpads, self._largest_scratchpad = [], 0
        self._places, self.views = [], []
        for i, view in enumerate(views):
            layout, number, first = view if isinstance(view, tuple) else (view, i, 0)
            self._places.append((number, first))
            self.views.append(library.view(layout))

    def add(self, description, views: dict[int, View]) -> None:
        """Add a primitive, with a view for each of its arguments."""
        layout = self._library.chosen(description, _SCRATCHPAD_LAYOUT)
        if size := self._library.size(layout):
            scratchpad = self._library.view(layout)
            views = {**views, _SCRATCHPAD: scratchpad}
            self._scratchpads.append(scratchpad.memory)
            self._largest_scratchpad = max(size, self._largest_scratchpad)
        arguments = (_Argument * len(views))(*(_Argument(k, v.memory) for k, v in views.items()))
        primitive = self._library.new("primitive_create", description)
        self._primitives.append((primitive, len(views), arguments))
        self.is_fast &= "ref" not in self._library.implementation(description)

    def copy(self, source: View, target: View) -> None:
        """Add target = source, which may lie otherwise."""
        sides = source.layout, self._library.engine, target.layout, self._library.engine
        self.add(self._library.describe("reorder", *sides), {SRC: source, DST: target})

    def lying(self, view: View, layout) -> View:
        """The same values in a layout: the view, or else a copy, which is made first."""
        if self._library.same(view.layout, layout):
            return view
        copy = self.temporary(layout)
        self.copy(view, copy)
        return copy

    def multiply(self, a: View, b: View, out: View, *, plus=()) -> None:
        """Add out = a * b (+ all of `plus`), entry by entry; b may have 1 in place of a size."""
        after, more = self.after(plus=plus)
        layouts = a.layout, b.layout, out.layout
        description = self._library.describe("binary", _MULTIPLY, *layouts, after=after)
        self.add(description, {SRC: a, SRC + 1: b, DST: out} | more)

    def product(
        self, a: View, b: View, out: View, *, bias=None, times=None, add: bool = False
    ) -> None:
        """Add out = a·b (+ bias, a row) (* times, entry by entry), or with `add` out += a·b."""
        library = self._library
        after, more = self.after(times=times)
        views = {SRC: a, WEIGHTS: b, DST: out} | more
        if add:
            whole = ctypes.c_float(1), ctypes.c_int32(0), library.kind
            library.call("post_ops_append_sum", after, *whole)
        if bias is not None:
            views[BIAS] = bias
        layouts = a.layout, b.layout, bias and bias.layout, out.layout
        self.add(library.describe("matmul", *layouts, after=after), views)

    def after(self, *, times=None, plus=(), relu: bool = False):
        """Describe what is done to a result: * times, + all of `plus`, entry by entry, then ReLU.

        Returns:
          (operations after a primitive, the views it is given besides its own).
        """
        after, views = self._library.new("post_ops_create"), {}
        binary = [(_MULTIPLY, times)] * (times is not None) + [(_ADD, view) for view in plus]
        for number, (kind, view) in enumerate(binary, start=1):
            self._library.call("post_ops_append_binary", after, kind, view.layout)
            views[_AFTER * number | SRC + 1] = view
        if relu:
            how = ctypes.c_float(_SLOPE), ctypes.c_float(0)
            self._library.call("post_ops_append_eltwise", after, _RELU, *how)
        return after, views

    def temporary(self, layout) -> View:
        """Memory for the time of a run; all operations share it, for they run one by one."""
        view = self._library.view(layout)
        self._temporaries.append((view.memory, self._scratch))
        self._scratch += -(-self._library.size(layout) // _ALIGNMENT) * _ALIGNMENT
        return view

    def filled(self, shape: tuple[int, ...], value: float, kind: int | None = None) -> View:
        """An array of one value, of the library's kind or another."""
        layout = self._library.layout(shape, kind=kind)
        view = self._library.view(layout)
        dtype = next(dtype for dtype, own in _KINDS.items() if own == (kind or self._library.kind))
        values = np.full(math.prod(shape), value, dtype)
        self._constants.append(values)
        self._library.place(view.memory, values.ctypes.data)
        return view

    def fill_diagonals(self, view: View, shape: tuple[int, ...], value: float) -> None:
        """Add setting the diagonals of a float32 view [B,h,m,n], m and n above 1, to a value.

        The library takes no view whose last step leads out of a matrix, so the last entries of the
        diagonals have one of their own.
        """
        b, h, m, n = shape
        last = min(m, n) - 1
        strides = h * m * n, m * n, n + 1
        ends = longs(b, h, 1, 1), longs(0, 0, last, last)
        for entries, layout in (
            ((b, h, last), self._library.layout((b, h, last), strides=strides, kind=FLOAT32)),
            ((b, h, 1, 1), self._library.new("memory_desc_create_submemory", view.layout, *ends)),
        ):
            self.copy(self.filled(entries, value, FLOAT32), View(view.memory, layout))

    def run(self, addresses: list[int]) -> None:
        """Compute."""
        place, execute = self._library.place, self._library.execute
        for view, (number, offset) in zip(self.views, self._places, strict=True):
            place(view.memory, addresses[number] + offset)
        if self._scratch or self._scratchpads:
            scratch = self._library.scratch(self._scratch + self._largest_scratchpad)
            for memory, offset in self._temporaries:
                place(memory, scratch + offset)
            for memory in self._scratchpads:  # one primitive runs at a time
                place(memory, scratch + self._scratch)
        for primitive, count, arguments in self._primitives:
            execute(primitive, count, arguments)


class _Argument(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int), ("memory", ctypes.c_void_p))


class Library:
    """oneDNN, loaded, with one engine and one stream.

    Attributes:
      kind: of the values in layouts, as a number of oneDNN's.
      has_bfloat16: whether the processor has instructions for it.

    Raises:
      OSError: it cannot be loaded.
      importlib.metadata.PackageNotFoundError: it is not installed.
    """

    def __init__(self):
        self._dll = _load()
        self.kind = FLOAT32
        self.has_bfloat16 = self._dll.dnnl_get_effective_cpu_isa() & _HAS_BFLOAT16 == _HAS_BFLOAT16
        self._dll.dnnl_primitive_desc_query_md.restype = ctypes.c_void_p
        self._place = self._dll.dnnl_memory_set_data_handle
        self._place.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
        self._execute = self._dll.dnnl_primitive_execute
        self._dll.dnnl_memory_desc_get_size.restype = ctypes.c_size_t
        self._buffer = [np.empty(0, np.uint8)]  # one for all kinds
        self.engine = self.new("engine_create", _CPU, ctypes.c_size_t(0))
        self._stream = self.new("stream_create", self.engine, _IN_ORDER)

    def of(self, kind: int) -> "Library":
        """The same for values of another kind."""
        other = copy.copy(self)
        other.kind = kind
        return other

    def of_dtype(self, dtype) -> "Library":
        """The same for values of a dtype."""
        return self.of(_KINDS[np.dtype(dtype)])

    @property
    def bytes(self) -> int:
        """Of a value."""
        return _BYTES[self.kind]

    def call(self, function: str, *args) -> None:
        """Call a function that returns a status."""
        _check(getattr(self._dll, f"dnnl_{function}")(*args), function)

    def new(self, function: str, *args) -> ctypes.c_void_p:
        """Call a function that makes an object."""
        result = ctypes.c_void_p()
        self.call(function, ctypes.byref(result), *args)
        return result

    def describe(self, kind: str, *args, after=None) -> ctypes.c_void_p:
        """Describe a primitive on the engine, with operations `after` it.

        The scratch memory of a primitive is given to it at each run. What the library keeps itself
        belongs to the thread that made the primitive, and XLA runs it on another.
        """
        attributes = self.new("primitive_attr_create")
        self.call("primitive_attr_set_scratchpad_mode", attributes, _GIVEN_BY_CALLER)
        if after is not None:
            self.call("primitive_attr_set_post_ops", attributes, after)
        on = () if kind == "reorder" else (self.engine,)  # that one names an engine per side
        return self.new(f"{kind}_primitive_desc_create", *on, *args, attributes)

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
        if self._buffer[0].size < size + _ALIGNMENT:
            self._buffer[0] = np.empty(size + _ALIGNMENT, np.uint8)
        return -(-self._buffer[0].ctypes.data // _ALIGNMENT) * _ALIGNMENT

    def layout(self, shape, order=None, *, strides=None, fixed: bool = True, kind=None):
        """Describe where values lie.

        Args:
          shape: of an array in memory, rows first.
          order: which axis in memory each axis of oneDNN's is; by default the same.
          strides: of the axes in memory, in values, where the array is part of another.
          fixed: False leaves the layout to the primitive.
          kind: of the values, if not the library's.
        """
        order, kind = order or range(len(shape)), kind or self.kind
        sizes = len(order), longs(*(shape[axis] for axis in order))
        if not fixed:
            return self.new("memory_desc_create_with_tag", *sizes, kind, _ANY_LAYOUT)
        strides = strides or [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
        lies = longs(*(strides[axis] for axis in order))
        return self.new("memory_desc_create_with_strides", *sizes, kind, lies)

    def chosen(self, description, what: int) -> ctypes.c_void_p:
        """A layout that a primitive chose."""
        return ctypes.c_void_p(self._dll.dnnl_primitive_desc_query_md(description, what, 0))

    def same(self, layout, other) -> bool:
        """Whether two layouts are one."""
        return bool(self._dll.dnnl_memory_desc_equal(layout, other))

    def implementation(self, description) -> str:
        """Name of the code behind a primitive; 'ref' in it marks reference code."""
        name = ctypes.c_char_p()
        self.call("primitive_desc_query", description, _IMPLEMENTATION, 0, ctypes.byref(name))
        return name.value.decode()

    def view(self, layout) -> View:
        """A memory object for a buffer that is given later."""
        return View(self.new("memory_create", layout, self.engine, None), layout)

    def turned(self, view: View) -> View:
        """The same memory as a stack of the transposed matrices."""
        rank = ctypes.c_int()
        self.call("memory_desc_query", view.layout, _RANK, ctypes.byref(rank))
        *stack, rows, columns = range(rank.value)
        axes = (ctypes.c_int * rank.value)(*stack, columns, rows)
        return View(view.memory, self.new("memory_desc_permute_axes", view.layout, axes))

    def rows(self, shape):
        """Layout of a matrix, or of a vector as a row."""
        return self.layout(shape if len(shape) == 2 else (1, *shape))


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
