"""Stopping a run from outside so that nothing is lost."""

import contextlib
import os
import signal
import sys
import threading
import time

EXIT_CODE = 75  # "temporary failure" of sysexits.h: run the same command again

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_DOUBLE_SECONDS = 0.1


class Stopped(Exception):
    """A run was asked to stop, and has saved everything: `step` of its `total` steps are done."""

    def __init__(self, step: int, total: int):
        super().__init__(f"stopped after step {step} of {total}")
        self.step, self.total = step, total


class StopSignals:
    """While its `with` block runs, SIGTERM and SIGINT set `asked`; a second one exits at once.

    The same one again within a tenth of a second is still the first: `timeout` and others send it
    to the process and to its group.

    Outside the main thread, where Python lets nobody handle signals, they do as before.
    """

    def __init__(self):
        self.asked = False
        self._first = 0, 0.0  # its number and time
        self._before = {}

    def _handle(self, number, frame) -> None:
        del frame
        now = time.monotonic()
        if self.asked:
            if number == self._first[0] and now - self._first[1] < _DOUBLE_SECONDS:
                return
            self._tell("stopped; the same command goes on from the last checkpoint, if any")
            os._exit(128 + number)
        self._first, self.asked = (number, now), True
        self._tell("stopping as soon as all is saved; once more stops at once")

    @staticmethod
    def _tell(text: str) -> None:
        # A write by hand: print may be in the middle of something else.
        with contextlib.suppress(OSError, ValueError, AttributeError):  # nobody is there
            os.write(sys.stderr.fileno(), f"\n{text}\n".encode())

    def __enter__(self) -> "StopSignals":
        in_main = threading.current_thread() is threading.main_thread()
        for number in _SIGNALS if in_main else ():
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
