"""ONNX: a graph that onnxruntime and others run, by jax2onnx.

Source: https://github.com/enpasos/jax2onnx.
"""

import contextlib
import functools
import importlib
import io
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jax_train.errors import UserError
from jax_train.export.check import Runtime
from jax_train.export.graph import Graph
from jax_train.files import json_text
from jax_train.printing import readable

# What ONNX 1.16 and onnxruntime 1.18 know, of 2024: it has GELU, and no operation here is newer.
OPSET = 21
_MOST_BYTES = 2**31 - 2**24  # that a file may have, less what is no weight
_PACKAGES = ("jax2onnx", "onnx", "onnxruntime")
# Parts of jax2onnx that are left out: those of other libraries, which take seconds to load;
# attention, whose form there leaves out the scale before version 0.13; resizing, whose form is
# another one and takes no free batch. JAX's own definitions of these two convert as all else.
_LEFT_OUT = ("examples", "equinox", "dm_pix", "jax.nn.dot_product_attention", "jax.image")


def check_installed() -> None:
    """Raise a UserError where a package of the extra is missing."""
    for package in _PACKAGES:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise UserError(
                f"--to: .onnx files need the package {package}, which cannot be imported "
                f"({error}): pip install 'jax-vit-cnn[onnx]'."
            ) from None


def encode(graph: Graph, name: str, facts: Mapping[str, object]) -> bytes:
    """The file: a graph from `images` [B,H,W,C], B free, to its outputs.

    Args:
      graph: what it computes.
      name: of the graph.
      facts: kept in the file, in its metadata_props, as JSON where they are no text.

    Raises:
      UserError: it has more bytes than a file of ONNX may have, or cannot be converted.
    """
    import onnx

    if graph.bytes > _MOST_BYTES:
        raise UserError(
            f"--to: {name} has {graph.bytes / 2**30:.1f} GiB of weights, and an ONNX file holds 2. "
            "Export to .stablehlo or to a folder."
        )

    def function(images):
        with jax.disable_jit():  # inlined: not every version knows how JAX keeps calls today
            found = graph.plain(images)
        return tuple(found[output] for output in graph.outputs)

    names = {"input_names": ["images"], "output_names": list(graph.outputs)}
    try:
        with _quiet():
            model = _converter()(function, [graph.batch], model_name=name, opset=OPSET, **names)
    except Exception as error:  # each of its plugins raises its own
        raise UserError(
            f"--to: jax2onnx {version('jax2onnx')} cannot convert {name}: "
            f"{' '.join(str(error).split())}. Export to .stablehlo."
        ) from error
    del model.graph.value_info[:]  # some are those of before an optimization; runtimes infer them
    made = facts["versions"] | {package: version(package) for package in _PACKAGES}
    model.producer_name, model.producer_version = "jax-vit-cnn", made.get("jax-vit-cnn", "")
    facts = facts | {"versions": made, "opset": OPSET}
    props = {
        key: readable(fact) if isinstance(fact, str) else json_text(fact)
        for key, fact in facts.items()
    }
    onnx.helper.set_model_props(model, props)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def open_file(path: Path, threads: int = 1) -> Runtime:
    """Read a file as its users do; threads beyond the cores there are would wait for each other."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, threads
    providers = ["CPUExecutionProvider"]
    # By its bytes: onnxruntime opens no file whose name is no text.
    session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=providers)
    outputs = [output.name for output in session.get_outputs()]

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(outputs, session.run(None, {"images": images}), strict=True))

    return Runtime(f"onnxruntime {onnxruntime.__version__}", run)


@functools.cache
def _converter() -> Callable:
    """`jax2onnx.to_onnx`, with the plugins that models here need."""
    import jax2onnx
    from jax2onnx.plugins import plugin_system

    cumsum = jnp.cumsum
    left_out = [f"jax2onnx.plugins.{name}" for name in _LEFT_OUT]
    sys.modules.update(dict.fromkeys(left_out))  # cannot be imported: they are passed over
    try:
        with _quiet():
            plugin_system.import_all_plugins()
    finally:
        for name in left_out:
            del sys.modules[name]
        jnp.cumsum = cumsum  # which a plugin replaces for good, by one that takes less
    _register_max_pool(plugin_system)
    return jax2onnx.to_onnx


def _register_max_pool(plugin_system) -> None:
    """Pool over two axes: jax2onnx's own pools over all four, which no runtime has."""
    import onnx_ir

    @plugin_system.register_primitive(jaxpr_primitive="reduce_window_max")
    class MaxPool(plugin_system.PrimitiveLeafPlugin):
        """Max-pooling of [B,H,W,C]."""

        def lower(self, ctx, eqn) -> None:
            """Add the nodes of an equation of the program."""
            (source,), (target,), how = eqn.invars, eqn.outvars, eqn.params
            low, high = zip(*how["padding"][1:-1], strict=True)
            sizes = {"kernel_shape": "window_dimensions", "strides": "window_strides"}
            window = {name: tuple(how[ours][1:-1]) for name, ours in sizes.items()}
            x, add = ctx.get_value_for_var(source), ctx.builder
            to_maps = {"perm": (0, 3, 1, 2), "_outputs": [ctx.fresh_name("maps")]}
            pooled = {"pads": (*low, *high), "_outputs": [ctx.fresh_name("pooled")]}
            back = {"perm": (0, 2, 3, 1), "_outputs": [ctx.fresh_name("max_pool")]}
            y = add.Transpose(x, **to_maps)
            y = add.Transpose(add.MaxPool(y, **window, **pooled), **back)
            sides = [side if isinstance(side, int) else str(side) for side in target.aval.shape]
            y.type, y.shape = x.type, onnx_ir.Shape(sides)
            ctx.bind_value_for_var(target, y)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the converter says of its own doings from users; some of it is printed."""
    loggers = [logging.getLogger(name) for name in ("jax2onnx", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
