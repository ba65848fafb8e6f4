"""A server on loopback that speaks the protocol of the Hugging Face hub, for small folders."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMITS = {"main": "a" * 40, "old": "b" * 40}


class Hub:
    """Serves `root/ORG/NAME/REVISION/FILE`.

    Attributes:
      url: of the server.
      requests: (method, path) of all that were made.
      breaks: names of files whose download is cut off, every time.
      redirects: names of files that lie elsewhere, as large ones do.
    """

    def __init__(self, root: Path):
        self.root, self.requests = root, []
        self.breaks, self.redirects = set(), set()
        hub = self

        class Handler(_Handler):
            served = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.elsewhere = f"http://localhost:{self._server.server_port}/elsewhere"  # another host
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        """Stop, if it has not been stopped."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()


def reach(server: Hub, monkeypatch, cache: Path) -> None:
    """Have huggingface_hub talk to the server, with a cache of its own."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


class _Handler(BaseHTTPRequestHandler):
    served: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self._answer(False)

    def do_GET(self):
        self._answer(True)

    def log_message(self, *_):
        pass

    def _answer(self, wants_content: bool):
        hub = self.served
        hub.requests.append((self.command, self.path))
        if self.path.startswith("/elsewhere/"):
            self._send(Path(hub.root, self.path.removeprefix("/elsewhere/")), {}, wants_content)
            return
        organisation, name, resolve, revision, *rest = self.path.strip("/").split("/")
        folder = hub.root / organisation / name
        if resolve != "resolve" or not folder.is_dir():
            self._refuse(401 if resolve == "resolve" else 404, "RepoNotFound")
            return
        branch = next((b for b, commit in COMMITS.items() if revision in (b, commit)), None)
        if branch is None or not (folder / branch).is_dir():
            self._refuse(404, "RevisionNotFound")
            return
        more = {"X-Repo-Commit": COMMITS[branch]}
        path = folder / branch / "/".join(rest)
        if not path.is_file():
            self._refuse(404, "EntryNotFound", more)
        elif path.name in hub.redirects:
            content = path.read_bytes()
            self.send_response(302)
            for key, value in more.items():
                self.send_header(key, value)
            self.send_header("X-Linked-Size", str(len(content)))
            self.send_header("X-Linked-ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("Location", f"{hub.elsewhere}/{path.relative_to(hub.root)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self._send(path, more, wants_content)

    def _send(self, path: Path, more: dict, wants_content: bool):
        content = path.read_bytes()
        self.send_response(200)
        tag = hashlib.sha1(content).hexdigest()
        sizes = {"Content-Length": str(len(content)), "ETag": f'"{tag}"'}
        for key, value in (sizes | more).items():
            self.send_header(key, value)
        self.end_headers()
        if wants_content:
            cut = path.name in self.served.breaks
            self.wfile.write(content[: len(content) // 2] if cut else content)
            self.close_connection = cut

    def _refuse(self, status: int, code: str, more: dict | None = None):
        self.send_response(status)
        for key, value in ({"X-Error-Code": code, "Content-Length": "0"} | (more or {})).items():
            self.send_header(key, value)
        self.end_headers()
