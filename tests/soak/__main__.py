"""Hit tiny runs with faults, and compare what they end with to uninterrupted runs, bit for bit.

python -m tests.soak                     50 kills, every other fault, about 15 minutes
python -m tests.soak --record            the same; rewrites the table in docs/reliability.md
python -m tests.soak --kills 5 --groups kills
python -m tests.soak --seed 7 --only kills/3
"""

import argparse
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.parity.measure import ROOT, rewrite
from tests.soak import disk, files, fuzz, kills, runs, table, together
from tests.soak.soak import Soak

PAGE = ROOT / "docs" / "reliability.md"
GROUPS = {
    "kills": lambda soak, wanted: kills.all_rounds(soak, wanted.kills),
    "cold": lambda soak, wanted: (kills.cold_rounds(soak), kills.damaged_caches(soak)),
    "files": lambda soak, wanted: files.all_damages(soak),
    "bytes": lambda soak, wanted: fuzz.all_flips(soak, wanted.flips),
    "disk": lambda soak, wanted: disk.all_full(soak),
    "together": lambda soak, wanted: together.all_pairs(soak),
}


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="kills and stops (default 50)")
    parser.add_argument("--flips", type=int, default=20, help="bytes to flip in each file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--groups", nargs="+", choices=list(GROUPS), default=list(GROUPS))
    parser.add_argument("--only", default="", help="a single try, as in kills/3")
    parser.add_argument("--folder", type=Path, help="for the runs (default: a temporary one)")
    parser.add_argument("--record", action="store_true", help=f"rewrite {PAGE.name}")
    wanted = parser.parse_args()
    if wanted.only and wanted.only.partition("/")[0] not in GROUPS:
        parser.error(f"--only {wanted.only}: expected GROUP/TRY, a group of {', '.join(GROUPS)}")
    return wanted


def main() -> int:
    """See the module's docstring; returns 1 when a try failed."""
    wanted = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that children are killed
    folder = (wanted.folder or Path(tempfile.mkdtemp(prefix="soak-"))).absolute()
    soak = Soak(folder, wanted.seed, wanted.only, say=lambda line: print(line, flush=True))
    begin = time.monotonic()
    try:
        for group in [wanted.only.split("/")[0]] if wanted.only else wanted.groups:
            print(f"== {group}, seed {wanted.seed}, in {folder}", flush=True)
            GROUPS[group](soak, wanted)
    finally:
        runs.stop_all()
        text = table.markdown(soak, time.monotonic() - begin)
        print(f"\n{text}")
    if wanted.record:
        rewrite("soak", text, PAGE)
    if not soak.failed and not wanted.folder:
        shutil.rmtree(folder)
    return 1 if soak.failed else 0


if __name__ == "__main__":
    sys.exit(main())
