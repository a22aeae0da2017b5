"""Run the properties of tests/contracts/test_any_input.py again and again, each time with other examples.

Stops with exit code 1 at the first example that fails: hypothesis prints it, and the seed that leads to it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

COMMAND = (sys.executable, "-m", "pytest", "--quiet", "--durations=0", "-m", "", "tests/contracts/test_any_input.py")


def main() -> int:
    """Parse the arguments, run until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the first round; the next adds one")
    options = parser.parse_args()
    end, seed = time.monotonic() + 60 * options.minutes, options.seed
    while time.monotonic() < end:
        print(f"examples of seed {seed}", flush=True)
        if subprocess.run([*COMMAND, "--hypothesis-profile=fuzz", f"--hypothesis-seed={seed}"], check=False).returncode:
            return 1
        seed += 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
