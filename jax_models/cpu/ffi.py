"""Python functions as XLA custom calls that get pointers to the buffers, without a copy.

XLA's foreign function interface calls a C function with a "call frame" (the structures below, from
xla/ffi/api/c_api.h, version 0.3: https://openxla.org/xla/custom_call). ctypes makes that function,
so nothing has to be compiled. A call takes the interpreter's lock for some 20 microseconds; it is
meant for functions that hand the work to a library.
"""

import atexit
import contextlib
import ctypes
import functools
import threading
from collections.abc import Callable

import jax
import jax.numpy as jnp

_VERSION = 0, 3
_INTERNAL_ERROR = 13
_SIZE, _POINTER = ctypes.c_size_t, ctypes.c_void_p
_INT, _INT64, _UINT32, _TO = ctypes.c_int, ctypes.c_int64, ctypes.c_uint32, ctypes.POINTER
_HEAD = {"struct_size": _SIZE, "extension": _POINTER}


def _structure(name: str, **fields: type) -> type[ctypes.Structure]:
    return type(name, (ctypes.Structure,), {"_fields_": tuple(fields.items())})


_Version = _structure("_Version", **_HEAD, major=_INT, minor=_INT)
_SIZED = {"struct_size": _SIZE}
_Metadata = _structure("_Metadata", **_SIZED, version=_Version, traits=_UINT32, state_type=_INT64)
_ASKS = {**_SIZED, "type": _INT, "next": _POINTER, "metadata": _TO(_Metadata)}
_MetadataExtension = _structure("_MetadataExtension", **_ASKS)
_Buffer = _structure("_Buffer", **_HEAD, dtype=_INT, data=_POINTER, rank=_INT64, dims=_TO(_INT64))
_LISTED = {**_HEAD, "count": _INT64, "types": _POINTER}
_Buffers = _structure("_Buffers", **_LISTED, items=_TO(_TO(_Buffer)))
_Scalar = _structure("_Scalar", dtype=_INT, value=_TO(_INT64))
_Attributes = _structure("_Attributes", **_LISTED, names=_POINTER, items=_TO(_TO(_Scalar)))
_ErrorArguments = _structure("_ErrorArguments", **_HEAD, message=ctypes.c_char_p, code=_INT)
_ERROR_CREATE = ctypes.CFUNCTYPE(_POINTER, _TO(_ErrorArguments))
_Api = _structure("_Api", **_HEAD, version=_Version, internal=_POINTER, error_create=_ERROR_CREATE)
_CALL = {"args": _Buffers, "results": _Buffers, "attributes": _Attributes}
_FRAME_HEAD = {"struct_size": _SIZE, "extension": _TO(_MetadataExtension), "api": _TO(_Api)}
_Frame = _structure("_Frame", **_FRAME_HEAD, context=_POINTER, stage=_INT, **_CALL)


class Incompatible(Exception):
    """XLA does not take functions of this version of its interface."""


_HANDLER = ctypes.CFUNCTYPE(_POINTER, _TO(_Frame))
_keep = []  # what XLA holds addresses of
_thread = threading.local()


def register(name: str, function: Callable[[int, tuple, list[int], list[int]], None]) -> None:
    """Make `function(dtype, shapes, addresses, integers)` the custom call `name` on CPUs.

    It is given XLA's number for the dtype of the first result, the shapes and the addresses of the
    arguments and then of the results, and the call's integer attributes by the order of their
    names. What it raises, the call raises.

    Raises:
      Incompatible: XLA has another version of the interface.
    """

    def handle(frame):
        frame = frame.contents
        if frame.extension:  # XLA asks which version this is
            metadata = frame.extension.contents.metadata.contents
            metadata.version.major, metadata.version.minor = _VERSION
            return None
        if not hasattr(_thread, "kept"):
            # Python keeps its record of this thread of XLA's now, instead of making it at each
            # call: mapping its memory takes up to a millisecond on virtual machines.
            ctypes.pythonapi.PyGILState_Ensure()  # never released
            _thread.kept = True
        try:
            function(*_read(frame))
        except BaseException as error:
            return _error(frame, f"{name}: {type(error).__name__}: {error}")
        return None

    handler = _HANDLER(handle)
    _keep.append(handler)
    capsule = jax.ffi.pycapsule(handler)
    try:
        jax.ffi.register_ffi_target(name, capsule, platform="cpu", api_version=1)
    except jax.errors.JaxRuntimeError as error:
        raise Incompatible(str(error)) from error


@functools.cache
def wait_at_exit() -> None:
    """Have the process end after the computations that it has begun.

    JAX waits for them at exit with Python's lock held, which calls need: it would wait for ever.
    """
    atexit.register(_wait)  # after JAX's own, so it comes before


def _wait() -> None:
    for array in jax.live_arrays():
        with contextlib.suppress(Exception):  # whoever asks for it is told
            array.block_until_ready()
    # Of results that nobody holds: the computations of a thread run in the order of its calls.
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        jax.block_until_ready(jax.jit(lambda: jnp.zeros(()))())


def check() -> None:
    """Raise `Incompatible` where no function can be registered."""
    register("jax_models_check", lambda *_: None)


def _read(frame) -> tuple[int, tuple, list[int], list[int]]:
    shapes, addresses = [], []
    for buffers in (frame.args, frame.results):
        for i in range(buffers.count):
            buffer = buffers.items[i].contents
            shapes.append(tuple(buffer.dims[: buffer.rank]))
            addresses.append(buffer.data)
    attributes = frame.attributes
    integers = [attributes.items[i].contents.value[0] for i in range(attributes.count)]
    return frame.results.items[0].contents.dtype, tuple(shapes), addresses, integers


def _error(frame, message: str):
    text = message.encode()
    arguments = _ErrorArguments(ctypes.sizeof(_ErrorArguments), None, text, _INTERNAL_ERROR)
    return frame.api.contents.error_create(ctypes.byref(arguments))
