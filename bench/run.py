"""Runs the benchmarks, all of them or those named: `python bench/run.py [list_page …] [--rounds 5]`.

Each is a program of its own in this folder and is passed the options that follow. What each shows, and its targets,
stand at its top; results go to `bench/results/NAME.json`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
BENCHMARKS = (
    "list_page",
    "search",
    "read_object",
    "upload",
    "start",
    "relay",
    "capacity",
    "faults",
    "page",
    "publisher",
    "controller",
    "webhooks",
    "egress",
    "sync",
    "long_show",
    "patrol",
    "inspection",
    "starved",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(BENCHMARKS)}; all when none is named")
    chosen, passed_on = parser.parse_known_args()
    unknown = set(chosen.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    failed = [
        name
        for name in chosen.names or BENCHMARKS
        if subprocess.run([sys.executable, str(HERE / f"{name}.py"), *passed_on], check=False).returncode
    ]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
