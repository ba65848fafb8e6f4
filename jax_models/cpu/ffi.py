"""Python functions as XLA custom calls that get pointers to the buffers, without a copy.

XLA's foreign function interface calls a C function with a "call frame" (the structures below, from
xla/ffi/api/c_api.h, version 0.3: https://openxla.org/xla/custom_call). ctypes makes that function,
so nothing has to be compiled. A call takes the interpreter's lock for some 20 microseconds; it is
meant for functions that hand the work to a library.
"""

import ctypes
import threading
from collections.abc import Callable

import jax

_VERSION = 0, 3
_INTERNAL_ERROR = 13
_SIZE, _POINTER = ctypes.c_size_t, ctypes.c_void_p
_HEAD = [("struct_size", _SIZE), ("extension", _POINTER)]


class _Version(ctypes.Structure):
    _fields_ = (*_HEAD, ("major", ctypes.c_int), ("minor", ctypes.c_int))


class _Metadata(ctypes.Structure):
    _fields_ = (
        ("struct_size", _SIZE), ("version", _Version), ("traits", ctypes.c_uint32),
        ("state_type", ctypes.c_int64),
    )  # fmt: skip


class _MetadataExtension(ctypes.Structure):
    _fields_ = (
        ("struct_size", _SIZE), ("type", ctypes.c_int), ("next", _POINTER),
        ("metadata", ctypes.POINTER(_Metadata)),
    )  # fmt: skip


class _Buffer(ctypes.Structure):
    _fields_ = (
        *_HEAD, ("dtype", ctypes.c_int), ("data", _POINTER), ("rank", ctypes.c_int64),
        ("dims", ctypes.POINTER(ctypes.c_int64)),
    )  # fmt: skip


class _Buffers(ctypes.Structure):
    _fields_ = (
        *_HEAD, ("count", ctypes.c_int64), ("types", _POINTER),
        ("items", ctypes.POINTER(ctypes.POINTER(_Buffer))),
    )  # fmt: skip


class _Scalar(ctypes.Structure):
    _fields_ = (("dtype", ctypes.c_int), ("value", ctypes.POINTER(ctypes.c_int64)))


class _Attributes(ctypes.Structure):
    _fields_ = (
        *_HEAD, ("count", ctypes.c_int64), ("types", _POINTER), ("names", _POINTER),
        ("items", ctypes.POINTER(ctypes.POINTER(_Scalar))),
    )  # fmt: skip


class _ErrorArguments(ctypes.Structure):
    _fields_ = (*_HEAD, ("message", ctypes.c_char_p), ("code", ctypes.c_int))


_ERROR_CREATE = ctypes.CFUNCTYPE(_POINTER, ctypes.POINTER(_ErrorArguments))


class _Api(ctypes.Structure):
    _fields_ = (
        *_HEAD, ("version", _Version), ("internal", _POINTER), ("error_create", _ERROR_CREATE),
    )  # fmt: skip


class _Frame(ctypes.Structure):
    _fields_ = (
        ("struct_size", _SIZE), ("extension", ctypes.POINTER(_MetadataExtension)),
        ("api", ctypes.POINTER(_Api)), ("context", _POINTER), ("stage", ctypes.c_int),
        ("args", _Buffers), ("results", _Buffers), ("attributes", _Attributes),
    )  # fmt: skip


_HANDLER = ctypes.CFUNCTYPE(_POINTER, ctypes.POINTER(_Frame))
_keep = []  # what XLA holds addresses of
_thread = threading.local()


def register(name: str, function: Callable[[tuple, list[int], list[int]], None]) -> None:
    """Make `function(shapes, addresses, integers)` the custom call `name` on CPUs.

    It is given the shapes and the addresses of the arguments and then of the results, and the
    call's integer attributes by the order of their names. What it raises, the call raises.
    """

    def handle(frame):
        frame = frame.contents
        if frame.extension:  # XLA asks which version this is
            metadata = frame.extension.contents.metadata.contents
            metadata.version.major, metadata.version.minor = _VERSION
            return None
        _keep_thread()
        try:
            function(*_read(frame))
        except BaseException as error:
            return _error(frame, f"{name}: {type(error).__name__}: {error}")
        return None

    handler = _HANDLER(handle)
    new_capsule = ctypes.pythonapi.PyCapsule_New
    new_capsule.restype = ctypes.py_object
    new_capsule.argtypes = (_POINTER, ctypes.c_char_p, _POINTER)
    capsule = new_capsule(ctypes.cast(handler, _POINTER), b"xla._CUSTOM_CALL_TARGET", None)
    _keep.append(handler)
    jax.ffi.register_ffi_target(name, capsule, platform="cpu", api_version=1)


def _keep_thread() -> None:
    """Have Python keep its record of this thread of XLA's, instead of making it at each call.

    Making it maps and unmaps memory, which on virtual machines can take a millisecond.
    """
    if not hasattr(_thread, "kept"):
        ctypes.pythonapi.PyGILState_Ensure()  # never released
        _thread.kept = True


def _read(frame) -> tuple[tuple, list[int], list[int]]:
    shapes, addresses = [], []
    for buffers in (frame.args, frame.results):
        for i in range(buffers.count):
            buffer = buffers.items[i].contents
            shapes.append(tuple(buffer.dims[: buffer.rank]))
            addresses.append(buffer.data)
    attributes = frame.attributes
    integers = [attributes.items[i].contents.value[0] for i in range(attributes.count)]
    return tuple(shapes), addresses, integers


def _error(frame, message: str):
    text = message.encode()
    arguments = _ErrorArguments(ctypes.sizeof(_ErrorArguments), None, text, _INTERNAL_ERROR)
    return frame.api.contents.error_create(ctypes.byref(arguments))
