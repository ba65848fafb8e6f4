"""Seconds and images per second of a run."""

import contextlib
import math
import time

import jax


class Clock:
    """Seconds of training and images per second, without compilation and evaluation."""

    def __init__(self, before: float):
        """`before`: seconds of the run's earlier parts."""
        self._start = time.monotonic() - before
        self._window: float | None = None  # start of the current window and images in it
        self._images = 0
        self._totals = [0.0, 0]

    def seconds(self) -> float:
        """Since the run began, with everything."""
        return time.monotonic() - self._start

    def count(self, images: int, wait_for) -> None:
        """Count images whose steps were started. The first call, of a cold start, is left out."""
        if self._window is None:
            jax.block_until_ready(wait_for)
            self._window = time.monotonic()
        else:
            self._images += images

    def images_per_sec(self) -> float:
        """Of the window that ends now; begins the next one. Call it when the device is idle.

        Without images it is nan.
        """
        now = time.monotonic()
        elapsed = 0.0 if self._window is None else now - self._window
        images = self._images
        self._totals[0] += elapsed
        self._totals[1] += images
        self._window, self._images = now, 0
        return images / elapsed if images else math.nan

    @contextlib.contextmanager
    def paused(self):
        """Leave out what happens inside."""
        begin = time.monotonic()
        yield
        if self._window is not None:
            self._window += time.monotonic() - begin

    def mean_speed(self) -> float:
        """Images per second over the whole run; nan where none were counted."""
        elapsed, images = self._totals
        return images / elapsed if images else math.nan
