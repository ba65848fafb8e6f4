"""Ask a server for minutes, with broken images among the requests; nothing leaks or gets lost.

python -m tests.soak.serving                  30 minutes, 32 clients
python -m tests.soak.serving --minutes 3
python -m tests.soak.serving --record         also rewrites the table in docs/reliability.md
"""

import argparse
import io
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

from PIL import Image

from benchmarks import clients
from benchmarks.clients import Asked, Request, Running
from tests import tiny
from tests.parity.measure import ROOT, rewrite

PAGE = ROOT / "docs" / "reliability.md"
PHOTOS = 20  # different ones
FLOOD = 10_000
MOST_GROWTH = 0.05  # of the memory, from the second tenth of the time to the last


def bomb() -> bytes:
    """A PNG of few bytes and 64 million pixels."""
    file = io.BytesIO()
    Image.new("1", (8000, 8000)).save(file, "PNG")
    return file.getvalue()


def broken(whole: bytes) -> list[Request]:
    """Requests that are to be refused, each with the status that is right."""

    def refused(code: int, body: bytes, path: str = "/predict", method: str = "POST") -> Request:
        return Request(path, body, method, lambda got, said: (got, "error" in said) == (code, True))

    return [
        refused(422, b""),
        refused(422, b"no image"),
        refused(422, whole[: len(whole) // 2]),
        refused(422, bomb()),
        refused(422, b"no image", "/explain"),
        refused(422, whole, "/predict?top=none"),
        refused(413, bytes(2_000_000)),
        refused(404, whole, "/predict?model=none"),
        refused(405, whole, method="PUT"),
    ]


class Mix:
    """The requests of all clients: photos, every tenth explained, and broken ones among them.

    What a photo is said to be must be the same each time, whoever else asks.
    """

    def __init__(self) -> None:
        self._photos = [clients.photo(seed) for seed in range(PHOTOS)]
        self._broken, self._said = broken(self._photos[0]), {}

    def __call__(self, client: int, number: int) -> Request:
        place = 7 * client + number
        if place % 5 == 0:
            return self._broken[place // 5 % len(self._broken)]
        path = "/explain" if place % 10 == 1 else "/predict"
        which = place % PHOTOS
        return Request(path, self._photos[which], "POST", lambda *got: self._right(which, *got))

    def _right(self, which: int, code: int, said: dict) -> bool:
        if code != 200:
            return False
        [classes] = [one["classes"] for one in said.get("predictions", [said])]
        got = {one["index"]: one["probability"] for one in classes}
        known = self._said.setdefault(which, got)
        return all(abs(known[k] - share) < 1e-4 for k, share in got.items() if k in known)


class Memory:
    """The resident megabytes of a process, every second, for a `with` block (Linux)."""

    def __init__(self, pid: int):
        self._pid, self._done, self.megabytes = pid, threading.Event(), []
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "Memory":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(1):
            lines = Path(f"/proc/{self._pid}/status").read_text().splitlines()
            self.megabytes += [int(li.split()[1]) / 1e3 for li in lines if li.startswith("VmRSS")]

    @property
    def tenths(self) -> list[float]:
        """The median of each tenth of the time."""
        step = max(1, len(self.megabytes) // 10)
        return [statistics.median(self.megabytes[i * step : (i + 1) * step]) for i in range(10)]


def run(server: Running, wanted: argparse.Namespace) -> tuple[str, list[str]]:
    """Ask; return a table, and what went wrong."""
    with Memory(server.process.pid) as memory:
        asked = clients.ask_for(server, wanted.clients, 60 * wanted.minutes, Mix())
    begin = time.monotonic()
    flooded = clients.flood(server, wanted.flood, clients.photo(0))
    seconds = time.monotonic() - begin
    after = clients.ask_for(server, 1, 1, Mix())
    tenths = memory.tenths
    wrong = asked.wrong + after.wrong
    wrong += [f"{asked.dropped} requests without an answer"] * bool(asked.dropped)
    if tenths[-1] > (1 + MOST_GROWTH) * tenths[1]:
        wrong.append(f"memory grew: {', '.join(f'{mb:.0f}' for mb in tenths)} MB")
    if set(flooded) != {200, 429}:
        wrong.append(f"answers to {wanted.flood} requests at once: {dict(flooded)}")
    return _table(asked, tenths, flooded, seconds, wanted), wrong


def _table(asked: Asked, tenths, flooded, seconds: float, wanted) -> str:
    codes = ", ".join(f"{count:,} x {code}" for code, count in sorted(asked.codes.items()))
    at_once = ", ".join(f"{count:,} x {code}" for code, count in sorted(flooded.items()))
    rows = {
        f"{wanted.clients} clients, {wanted.minutes:g} minutes": f"{len(asked.seconds):,} answers",
        "statuses": codes,
        "wrong answers; none at all": f"{len(asked.wrong) - asked.dropped}; {asked.dropped}",
        "answered within, ms": f"{asked.percentile(50):.0f} (half), {asked.percentile(99):.0f} "
        "(99 %)",
        "resident memory by tenth of the time, MB": ", ".join(f"{mb:.0f}" for mb in tenths),
        f"{wanted.flood:,} requests at once": f"{at_once}, in {seconds:.0f} s",
    }
    lines = [f"| {what} | {figure} |" for what, figure in rows.items()]
    return "\n".join(["| what | figure |", "|---|---|", *lines])


def trained(folder: Path) -> Path:
    """Train a tiny ViT on digits; return its folder."""
    from jax_train.train import train

    train(tiny.config(), folder)
    return folder


def main() -> int:
    """See the module's docstring; returns 1 where something went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--flood", type=int, default=FLOOD, help="requests at once, at the end")
    parser.add_argument("--run", type=Path, help="to serve (default: a tiny one, trained first)")
    parser.add_argument("--record", action="store_true", help=f"rewrite {PAGE.name}")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = wanted.run or trained(Path(folder) / "vit")
        limits = ("--max_mb", "1", "--queue", str(2 * wanted.clients))
        with clients.serving(place, *limits) as server:
            text, wrong = run(server, wanted)
    print(text)
    print("\n".join(wrong), file=sys.stderr)
    if wanted.record and not wrong:
        rewrite("serving", text, PAGE)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
