"""Images that come together are computed together, by one thread."""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jax_train.engine.feed import padded

Results = Sequence[Any] | np.ndarray
WAIT_SECONDS = 0.004  # for images that are being decoded, before a batch is begun without them


@dataclass(frozen=True, eq=False)
class Work:
    """What is computed of images.

    Attributes:
      compute: uint8 [B,H,W,C], B one of `sizes`, -> a result for each of the B.
      sizes: of the batches, rising; each is compiled once, and smaller batches are filled up.
    """

    compute: Callable[[np.ndarray], Results]
    sizes: tuple[int, ...]

    def __call__(self, images: Sequence[np.ndarray]) -> Results:
        """The results of up to `sizes[-1]` images [H,W,C], at least one."""
        size = next(size for size in self.sizes if size >= len(images))
        return self.compute(padded(np.stack(images), size))[: len(images)]


def batch_sizes(most: int) -> tuple[int, ...]:
    """1, 4, 16 and so on, up to `most`: few to compile, and never much filler."""
    sizes = [4**power for power in range(most.bit_length()) if 4**power < most]
    return *sizes, most


class _Job(NamedTuple):
    work: Work
    image: np.ndarray
    result: Future


class Batcher:
    """A thread that computes, for a `with` block.

    What is asked for in the meantime of the same work becomes the next batch, in the order in which
    it came. How many may wait is up to whoever submits.
    """

    def __init__(self, wait_seconds: float = WAIT_SECONDS):
        self._wait_seconds, self._coming, self._closed = wait_seconds, 0, False
        self._waiting: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="compute", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Batcher":
        return self

    def __exit__(self, *_) -> None:
        """Compute what is waiting, and end."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether what is submitted is computed."""
        return self._thread.is_alive()

    @contextlib.contextmanager
    def coming(self) -> Iterator[None]:
        """Have batches wait, for a moment, for an image that is to be submitted in the block."""
        with self._changed:
            self._coming += 1
        try:
            yield
        finally:
            with self._changed:
                self._coming -= 1
                self._changed.notify_all()

    def submit(self, work: Work, image: np.ndarray) -> Future:
        """Have an image [H,W,C] computed with others; the future has its result, or raises."""
        job = _Job(work, image, Future())
        with self._changed:
            self._waiting.append(job)
            self._changed.notify_all()
        return job.result

    def _run(self) -> None:
        while jobs := self._next_batch():
            jobs = [job for job in jobs if job.result.set_running_or_notify_cancel()]
            if not jobs:
                continue
            try:
                results = jobs[0].work([job.image for job in jobs])
            except Exception as error:  # of these images; the thread goes on with others
                for job in jobs:
                    job.result.set_exception(error)
                continue
            for job, result in zip(jobs, results, strict=True):
                job.result.set_result(result)

    def _next_batch(self) -> list[_Job]:
        """The jobs that are computed together; none at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if not self._waiting:
                return []
            work = self._waiting[0].work
            self._changed.wait_for(
                lambda: not self._coming or len(self._waiting) >= work.sizes[-1],
                self._wait_seconds,
            )
            taken: list[_Job] = []
            left: deque[_Job] = deque()
            for job in self._waiting:
                fits = job.work is work and len(taken) < work.sizes[-1]
                (taken if fits else left).append(job)
            self._waiting = left
            return taken
