"""What a server costs beside its model: the latency of one client, and images/s of many."""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks import clients
from jax_train.machine import runtime
from jax_train.printing import say
from jax_train.runs import pretrained
from jax_train.serving.models import ServedModel

MODELS = ("vit_tiny_patch16_224", "resnet18")
_CLIENTS, _BATCH = 32, 16


def table(names: list[str], rounds: int, quick: bool = False) -> str:
    """A row for each model: requests of one photo of 256 pixels a side, as JPEG."""
    lines = [
        "| model | bare, one image, ms | one client, ms | bare, images/s "
        f"| {_CLIENTS} clients, images/s | share | their 99 %, ms |",
        "|---|---|---|---|---|---|---|",
    ]
    runtime.prepare()
    for name in [name for name in MODELS if name in names][: 1 if quick else None]:
        lines.append(_row(name, 1 if quick else 4 * rounds))
        say(lines[-1])
    return "\n".join(lines)


def _row(name: str, seconds: float) -> str:
    with tempfile.TemporaryDirectory() as folder:
        weights = clients.random_weights(name, Path(folder))
        model = ServedModel(name, pretrained.open_source(weights, name), _BATCH, 25)
        one, many = (_bare(model, size, seconds) for size in (1, _BATCH))
        arguments = (weights, "--model", name, "--batch", str(_BATCH))
        with clients.serving(*arguments) as server:
            alone = clients.ask_for(server, 1, seconds, _photos)
            together = clients.ask_for(server, _CLIENTS, 2 * seconds, _photos)
    for asked in (alone, together):
        if asked.wrong:
            raise RuntimeError(f"wrong answers of {name}: {asked.wrong[:3]}")
    speed = len(together.seconds) / max(when for _, when in together.seconds)
    cells = [1e3 * one, alone.percentile(50), _BATCH / many, speed]
    shown = " | ".join(f"{cell:,.1f}" for cell in cells)
    share = speed * many / _BATCH
    return f"| `{name}` | {shown} | {share:.0%} | {together.percentile(99):,.0f} |"


def _photos(client: int, number: int) -> clients.Request:
    body = clients.photo(1000 * client + number % 10)
    return clients.Request("/predict", body, "POST", lambda code, _: code == 200)


def _bare(model: ServedModel, size: int, seconds: float) -> float:
    """Seconds that a batch of decoded images takes, the median."""
    images = [np.full(model.shape, place, np.uint8) for place in range(size)]
    model.predict(images)
    return statistics.median(_times(lambda: model.predict(images), seconds))


def _times(run: Callable[[], object], seconds: float) -> list[float]:
    times, end = [], time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return times
