"""Become another command that dies with the process that started it, with a limit on file sizes.

python tied.py PARENT LIMIT COMMAND…        LIMIT in bytes, 0: none
"""

import ctypes
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG = 1  # of linux/prctl.h


def main(parent: str, limit: str, *command: str) -> None:
    """See the module's docstring."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):  # it died before the request
        sys.exit(1)
    if int(limit):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    os.execv(command[0], command)


if __name__ == "__main__":
    main(*sys.argv[1:])
