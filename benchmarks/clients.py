"""A server of `python -m jax_train serve` in a process of its own, and clients that ask it."""

import asyncio
import contextlib
import http.client
import io
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from flax import nnx
from PIL import Image

import jax_models
from jax_models import torch_weights
from tests.parity.measure import ROOT

_SECONDS = 120  # for an answer


class Running(NamedTuple):
    """A server: its process, and where it listens."""

    process: subprocess.Popen
    host: str
    port: int


class Request(NamedTuple):
    """What is asked.

    Attributes:
      path, body, method: of the request.
      judge: status and JSON of the answer -> whether it is right.
    """

    path: str
    body: bytes
    method: str
    judge: Callable[[int, dict], bool]


@dataclass
class Asked:
    """What came of requests.

    Attributes:
      seconds: of each that was answered, and when that was.
      codes: of the answers.
      wrong: answers that are not right, the first few.
      dropped: requests without an answer.
    """

    seconds: list[tuple[float, float]] = field(default_factory=list)
    codes: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    dropped: int = 0

    def percentile(self, share: float) -> float:
        """Milliseconds in which that percentage was answered."""
        return 1e3 * float(np.percentile([taken for taken, _ in self.seconds], share))


def random_weights(name: str, folder: Path) -> Path:
    """Write a file of weights of a registered model as it begins; return it."""
    path = folder / f"{name}.safetensors"
    torch_weights.save_safetensors(jax_models.create_model(name, rngs=nnx.Rngs(0)), path)
    return path


def photo(seed: int, side: int = 256) -> bytes:
    """A JPEG of that many pixels a side, smooth as photos are."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(file, "JPEG")
    return file.getvalue()


@contextlib.contextmanager
def serving(*arguments: str | Path) -> Iterator[Running]:
    """Serve on a free port, for a `with` block."""
    command = [sys.executable, "-m", "jax_train", "serve", *map(str, arguments), "--port", "0"]
    with (
        tempfile.TemporaryFile("w+") as told,
        subprocess.Popen(
            command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=told
        ) as process,
    ):
        try:
            for line in process.stdout:
                if found := re.search(r"at http://([\d.]+):(\d+)", line):
                    yield Running(process, found[1], int(found[2]))
                    break
            else:
                told.seek(0)
                raise RuntimeError(f"the server did not start: {told.read()[-2000:]}")
        finally:
            process.terminate()
            process.wait(60)


def ask_for(
    server: Running, clients: int, seconds: float, requests: Callable[[int, int], Request]
) -> Asked:
    """Have clients ask at the same time, each a request after the other.

    Args:
      server: asked.
      clients: threads, each with a connection that it keeps.
      seconds: how long new requests are sent.
      requests: (client, how-manieth of it) -> the request.
    """
    asked, lock, begin = Asked(), threading.Lock(), time.monotonic()

    def client(number: int) -> None:
        connection, count = http.client.HTTPConnection(*server[1:], timeout=_SECONDS), 0
        while time.monotonic() < begin + seconds:
            _ask(connection, requests(number, count), asked, lock, begin)
            count += 1
        connection.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return asked


def _ask(connection, request: Request, asked: Asked, lock, begin: float) -> None:
    start = time.monotonic()
    try:
        connection.request(request.method, request.path, request.body)
        answer = connection.getresponse()
        code, said = answer.status, json.loads(answer.read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        connection.close()
        with lock:
            asked.dropped += 1
            asked.wrong.append(f"{request.method} {request.path}: {error!r}")
        return
    end = time.monotonic()
    with lock:
        asked.codes[code] += 1
        asked.seconds.append((end - start, end - begin))
        if not request.judge(code, said) and len(asked.wrong) < 20:
            asked.wrong.append(f"{request.method} {request.path}: {code} {str(said)[:200]}")


def flood(server: Running, count: int, body: bytes) -> Counter[int]:
    """Send that many requests at once, a connection each; count the statuses of the answers."""

    async def one() -> int:
        reader, writer = await asyncio.open_connection(*server[1:])
        head = f"POST /predict HTTP/1.1\r\nHost: {server.host}\r\nContent-Length: {len(body)}\r\n"
        writer.write(head.encode() + b"Connection: close\r\n\r\n" + body)
        line = await reader.readline()
        await reader.read()
        writer.close()
        return int(line.split()[1])

    async def all_of_them() -> Sequence[int | BaseException]:
        return await asyncio.gather(*(one() for _ in range(count)), return_exceptions=True)

    found = asyncio.run(all_of_them())
    return Counter(code if isinstance(code, int) else 0 for code in found)
