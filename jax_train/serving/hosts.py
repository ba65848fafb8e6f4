"""By which names a server that is for this machine alone may be called."""

import contextlib
import ipaddress
import re

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from jax_train.printing import readable, shorten

_LOCAL = ("127.0.0.1", "localhost", "[::1]")
_HOST = re.compile(r"(\[[^]]*\]|[^:]*)(:\d*)?")  # RFC 3986, 3.2.2: a colon only within brackets


def is_loopback(host: str) -> bool:
    """Whether a host is this machine alone."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def written(host: str) -> str:
    """A host as addresses hold it."""
    return f"[{host}]" if ":" in host else host


def local_names(host: str) -> tuple[str, ...]:
    """What this machine is called by requests to a server that is bound to `host`."""
    return *_LOCAL, written(host)


class OnlyNames:
    """Refuses requests that call the server by another name.

    A page of elsewhere whose name was bent to this machine would read the answers.

    Args:
      app: what answers the others.
      names: as addresses hold them.
    """

    def __init__(self, app: ASGIApp, names: tuple[str, ...]):
        self._app, self._names = app, frozenset(names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as ASGI has it."""
        if scope["type"] != "http" or (host := _host(scope)).lower() in self._names:
            return await self._app(scope, receive, send)
        said = f"{shorten(readable(host), 60)!r} is no name of this machine, which the server is "
        said += f"for alone. Ask by {', '.join(sorted(self._names))}; --host 0.0.0.0 opens it."
        await JSONResponse({"error": said}, 400)(scope, receive, send)


def _host(scope: Scope) -> str:
    """What a request calls the server, without the port; all that is sent where that is no host."""
    sent = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
    found = _HOST.fullmatch(sent)
    return found[1] if found else sent
