"""Run a command, then compare its time with a budget: `scripts/budget.py --minutes 12 COMMAND`.

It also times fixed work and compares that with an idle machine, to tell a slow machine from a slow test suite.
Without a command it does only the fixed work.
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
    """Use one core and the disk, as each stage does when it starts."""
    subprocess.run([sys.executable, "-c", "import torch"], check=True)


def multiply() -> None:
    """Use all cores."""
    import numpy as np

    matrix = np.ones((1024, 1024), dtype=np.float32)
    for _ in range(20):
        matrix @ matrix


def write_files() -> None:
    """Write small files through to the disk, as checkpoints and databases do."""
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
    """Print the time of the fixed work now and on an idle machine."""
    parts, slowness = [], 1.0
    for name, (work, reference) in WORK.items():
        start = time.monotonic()
        work()
        seconds = time.monotonic() - start
        parts.append(f"{name} {seconds:.2f} s ({reference:.2f})")
        slowness *= (seconds / reference) ** (1 / len(WORK))
    print(f"this machine now: {', '.join(parts)}: {slowness:.1f} times the idle machine in brackets")


def main() -> int:
    """Run the command, if there is one, and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    code, start = 0, time.monotonic()
    if arguments.command:
        with subprocess.Popen(arguments.command) as process:
            try:
                code = process.wait()
            except KeyboardInterrupt:  # the command gets it too
                code = process.wait()
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(
            f"took {(time.monotonic() - start) / 60:.1f} minutes, the budget is {arguments.minutes:g};"
            f" {(used.ru_utime + used.ru_stime) / 60:.1f} minutes of processor time"
        )
    calibrate()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
