"""When a side runs as fast as it did before it waited, and what its steps take then.

A process that waits loses its caches, and on some machines its memory: the system takes the pages
of idle processes away. What it does first afterwards says nothing of its speed.
"""

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

_BEAT = 0.05  # seconds: shorter steps are timed several at a time
_WINDOW = 0.4  # seconds that are compared
_AGREE = 0.05  # by how much two windows may differ
_LEAST = 3  # beats of a sample


class Sample(NamedTuple):
    """What a side did in its turn.

    Attributes:
      beats: seconds of each step, or of several together where they are short.
      images: in each of them.
      settled: whether it ran as fast as before it waited.
    """

    beats: list[float]
    images: int
    settled: bool


class Pace:
    """Work that is done over and over, between waits of any length.

    Args:
      run: takes a number of steps, does them, and returns the number of images.
      seconds: that a sample takes, or `_LEAST` beats.
      limit: seconds after which a sample is taken although the work is not settled; 0: at once,
        and a single beat of it.
      clock: what the time is read from.
    """

    def __init__(
        self,
        run: Callable[[int], int],
        seconds: float = 1.5,
        limit: float = 10,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._run, self._clock, self._limit = run, clock, limit
        for _ in range(3):  # what is compiled is compiled now
            once = self._seconds(1)
        self._steps = max(1, round(_BEAT / once)) if limit else 1
        beat = once * self._steps
        self._window = max(1, round(_WINDOW / beat))
        self._count = max(_LEAST, round(seconds / beat)) if limit else 1
        self._before = None  # median seconds of a beat before the work waited
        self.settle()

    def _seconds(self, steps: int) -> float:
        begin = self._clock()
        self._images = self._run(steps)
        return self._clock() - begin

    def settle(self) -> bool:
        """Work until two windows agree and it is as fast as before; False where the limit came."""
        last, end = self._before, self._clock() + self._limit
        while self._clock() < end:
            now = self._median(self._window)
            if last is not None and abs(now / last - 1) <= _AGREE and self._is_as_fast(now):
                self._before = now
                return True
            last = now
        return not self._limit

    def _is_as_fast(self, now: float) -> bool:
        return self._before is None or now <= (1 + _AGREE) * self._before

    def _median(self, count: int) -> float:
        return statistics.median(self._seconds(self._steps) for _ in range(count))

    def sample(self) -> Sample:
        """Settle, and time some beats."""
        settled = self.settle()
        beats = [self._seconds(self._steps) for _ in range(self._count)]
        self._before = statistics.median(beats)
        return Sample(beats, self._images, settled)
