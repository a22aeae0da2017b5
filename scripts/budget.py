"""Run a command; then its time beside a budget, and how fast the machine is: `scripts/budget.py --minutes 12 COMMAND`.

A slow day is told from a slow suite by work that is always the same: its time beside that of an idle machine.
Without a command it does that work alone.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path


def import_torch() -> None:
    """One core and the disk: as each stage begins."""
    subprocess.run([sys.executable, "-c", "import torch"], check=True)


def multiply() -> None:
    """All cores."""
    import numpy as np

    matrix = np.ones((1024, 1024), dtype=np.float32)
    for _ in range(20):
        matrix @ matrix


def write_files() -> None:
    """Small files that reach the disk, as checkpoints and databases do."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(100):
            with Path(folder, str(number)).open("wb") as file:
                file.write(b"0" * 10_000)
                file.flush()
                os.fsync(file.fileno())


# Seconds on two cores (AMD EPYC, AVX-512 BF16, Python 3.11.7), idle: `.venv/bin/python scripts/budget.py`
WORK: dict[str, tuple[Callable[[], None], float]] = {
    "import torch": (import_torch, 1.1),
    "matrix products": (multiply, 0.21),
    "files": (write_files, 0.04),
}


def calibrate() -> None:
    """Print what the fixed work takes now, beside what it takes on an idle machine."""
    parts, slowness = [], 1.0
    for name, (work, reference) in WORK.items():
        began = time.monotonic()
        work()
        took = time.monotonic() - began
        parts.append(f"{name} {took:.2f} s ({reference:.2f})")
        slowness *= (took / reference) ** (1 / len(WORK))
    print(f"this machine now: {', '.join(parts)}: {slowness:.1f} times the idle machine in brackets")


def main() -> int:
    """Run the command, if any, and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    code, began = 0, time.monotonic()
    if arguments.command:
        with subprocess.Popen(arguments.command) as process:
            try:
                code = process.wait()
            except KeyboardInterrupt:  # which the command got as well
                code = process.wait()
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(
            f"took {(time.monotonic() - began) / 60:.1f} minutes, the budget is {arguments.minutes:g};"
            f" {(used.ru_utime + used.ru_stime) / 60:.1f} minutes of processor time"
        )
    calibrate()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
