"""The server's life: a place to listen at, models, and the end."""

import contextlib
import logging
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import uvicorn

from jax_train.errors import UserError
from jax_train.printing import counted, readable, say
from jax_train.runs.trained import TrainedRun
from jax_train.serving import hosts
from jax_train.serving.app import Server
from jax_train.serving.batching import Batcher
from jax_train.serving.models import ServedModel
from jax_train.serving.uploads import Limits

_END_SECONDS = 30  # for what is being worked on when the server is to end


def listen(host: str, port: int) -> socket.socket:
    """A socket at which clients wait until the server takes them; nobody else can have its place.

    Raises:
      UserError: the place is taken, none of this machine's, or no place at all.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen()  # else another could bind the same place until this one serves
    except (OSError, UnicodeError) as error:  # that of what can be no name of a host
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"--host {host} --port {port}: nobody can listen there: {reason}. "
            "Choose another --port; 0 takes any that is free."
        ) from error
    return bound


def names_of(runs: Sequence[TrainedRun]) -> list[str]:
    """A name for each model, all different: those of the folders, numbered where they are alike."""
    names: list[str] = []
    for run in runs:
        stem = readable(Path(run.folder).name) or "model"
        name, number = stem, 1
        while name in names:
            number += 1
            name = f"{stem} ({number})"
        names.append(name)
    return names


def serve(runs: Sequence[TrainedRun], bound: socket.socket, batch: int, limits: Limits) -> None:
    """Serve until a signal comes; what is being worked on is answered.

    Args:
      runs: at least one.
      bound: see `listen`.
      batch: most images that are computed together.
      limits: of what is taken.

    Raises:
      UserError: a model takes no image files, or its logits are not finite.
      KeyboardInterrupt: as asked for, when all is done.
    """
    models = []
    for name, run in zip(names_of(runs), runs, strict=True):
        models.append(ServedModel(name, run, batch, limits.megapixels))
        say(f"compiling {name} for {counted(len(models[-1].predict.sizes), 'size')} of batches")
        models[-1].prepare()
    _allow_many_files()
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # broken forms are told anyway
    host, port = bound.getsockname()[:2]
    local = hosts.is_loopback(host)
    with Batcher() as batcher, _logged_to_stderr("uvicorn"):
        app = Server(models, batcher, limits).app(hosts.local_names(host) if local else None)
        config = uvicorn.Config(
            app,
            log_config=None,  # it would close the handlers that others have, and their streams
            log_level="warning",
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_graceful_shutdown=_END_SECONDS,
        )
        address = f"http://{hosts.written(host)}:{port}"
        say(f"serving {counted(len(models), 'model')} at {address} until Ctrl+C")
        if not local:
            say("note: whoever reaches this machine can ask; --host 127.0.0.1 keeps it to itself")
        uvicorn.Server(config).run(sockets=[bound])


@contextlib.contextmanager
def _logged_to_stderr(name: str) -> Iterator[None]:
    """Have what a library logs printed line by line, with tracebacks."""
    logger, handler = logging.getLogger(name), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    before, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


def _allow_many_files() -> None:
    """Take as many connections as the system lets a process have."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
