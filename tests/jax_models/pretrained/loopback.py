"""A server on loopback that speaks the protocol of the Hugging Face hub, for small folders."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMITS = {"main": "a" * 40, "old": "b" * 40}


class Hub:
    """Serves `root/ORG/NAME/REVISION/FILE` as a model, below `root/datasets` as a data set.

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

    def do_POST(self):
        """Facts of files that are named: of data sets only."""
        size = int(self.headers["Content-Length"])
        wanted = json.loads(self.rfile.read(size))["paths"]
        self.served.requests.append((self.command, self.path))
        _, _, organisation, name, _, revision = self.path.strip("/").split("/")
        folder = self._branch(f"datasets/{organisation}", name, revision)
        found = [path for path in wanted if folder and (folder / path).exists()]
        self._send_json([_facts(folder, folder / path) for path in found])

    def log_message(self, *_):
        pass

    def _answer(self, wants_content: bool):
        hub = self.served
        hub.requests.append((self.command, self.path))
        if self.path.startswith("/elsewhere/"):
            self._send(Path(hub.root, self.path.removeprefix("/elsewhere/")), {}, wants_content)
            return
        if self.path.startswith("/api/datasets/"):
            self._answer_about_data()
            return
        plain, kind = self.path.strip("/"), ""
        if plain.startswith("datasets/"):
            plain, kind = plain.removeprefix("datasets/"), "datasets/"
        organisation, name, resolve, revision, *rest = [*plain.split("/"), "", "", ""]
        folder = hub.root / kind / organisation / name
        if resolve != "resolve" or not folder.is_dir():
            self._refuse(401 if resolve == "resolve" else 404, "RepoNotFound")
            return
        branch = self._branch(folder.parent, name, revision)
        if branch is None:
            self._refuse(404, "RevisionNotFound")
            return
        more = {"X-Repo-Commit": COMMITS[branch.name]}
        path = branch / "/".join(rest).rstrip("/")
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

    def _branch(self, owner: str | Path, name: str, revision: str) -> Path | None:
        folder = self.served.root / owner / name
        branches = (b for b, commit in COMMITS.items() if revision in (b, commit))
        return next((folder / b for b in branches if (folder / b).is_dir()), None)

    def _answer_about_data(self):
        """What a revision of a data set is, or which files lie in a folder of it."""
        path = self.path.partition("?")[0]
        _, _, organisation, name, *rest = path.strip("/").split("/")
        kind, revision, *below = rest or ("revision", "main")
        if not (self.served.root / "datasets" / organisation / name).is_dir():
            self._refuse(401, "RepoNotFound")
        elif (folder := self._branch(f"datasets/{organisation}", name, revision)) is None:
            self._refuse(404, "RevisionNotFound")
        elif kind == "tree":
            place = folder / "/".join(below)
            inside = place.rglob("*") if "recursive=true" in self.path.lower() else place.iterdir()
            self._send_json([_facts(folder, path) for path in inside if path.exists()])
        else:
            files = [path for path in folder.rglob("*") if path.is_file()]
            names = [{"rfilename": path.relative_to(folder).as_posix()} for path in files]
            about = {"id": f"{organisation}/{name}", "sha": COMMITS[folder.name]}
            self._send_json(about | {"siblings": names, "tags": [], "private": False})

    def _send_json(self, value: object):
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

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


def _facts(root: Path, path: Path) -> dict:
    """A file or folder as the hub describes it."""
    name = path.relative_to(root).as_posix()
    if path.is_dir():
        return {"type": "directory", "path": name, "oid": hashlib.sha1(name.encode()).hexdigest()}
    content = path.read_bytes()
    digest = hashlib.sha1(content).hexdigest()
    return {"type": "file", "path": name, "size": len(content), "oid": digest}
