"""What the default run leads to, seed by seed: `make bench-first-run`.

Runs the pipeline of params.yaml in a copy of the project once for each seed (splits, initial weights, order of rows and
masking all follow from it), and prints a line of decision 31 for each: the finetuned model's metrics, and by how much
it is better than the simple baseline that comes closest, with the paired interval.

    python benchmarks/first_run.py [--seeds 0 1 2]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from overhead import call, change, copy_project

from pretune.config.params import load
from pretune.evaluation.metrics.bootstrap import Bootstrap, Difference
from pretune.evaluation.metrics.compute import gain, metrics
from pretune.objectives import predictions_io

METRICS = ("accuracy", "macro_f1", "log_loss", "roc_auc")


def main() -> None:
    """Run each seed and print its line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    asked = parser.parse_args()
    print(f"| seed | {' | '.join(METRICS)} | calibration error, before | over scratch | seconds |")
    print("|---|" + "---|" * (len(METRICS) + 3), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        workspace = copy_project(Path(folder) / "pretune")
        for seed in asked.seeds:
            change(workspace, {"seed": seed})
            began = time.perf_counter()
            call([sys.executable, "-m", "cli.app", "run"], workspace)
            print(line(workspace, seed, time.perf_counter() - began), flush=True)


def line(workspace: Path, seed: int, seconds: float) -> str:
    """A seed's metrics and gains."""
    evaluate = load(workspace / "params.yaml").evaluate
    result = json.loads((workspace / "reports/metrics.json").read_text(encoding="utf-8"))
    found = predictions_io.loads((workspace / "reports/evaluation/predictions.json").read_text(encoding="utf-8"))
    bootstrap = Bootstrap(len(found.rows), evaluate.bootstrap_samples, evaluate.confidence, seed)
    known = {name: metrics(said) for name, said in found.models.items()}
    own, baselines = known["finetuned"], [each for name, each in known.items() if name not in {"finetuned", "scratch"}]
    cells = []
    for name in METRICS:
        closest = min((gain(own, each, bootstrap, name) for each in baselines), key=lambda each: each.low)
        cells.append(f"{result['finetuned'][name]['value']:.3f}, {told(closest)}")
    sure = result["calibration"]
    error = f"{sure['after']['calibration_error']['value']:.3f}, {sure['before']['calibration_error']['value']:.3f}"
    over = gain(own, known["scratch"], bootstrap)
    return f"| {seed} | {' | '.join(cells)} | {error} | {told(over)} | {seconds:.0f} |"


def told(found: Difference) -> str:
    """A gain with its interval."""
    return f"{found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f})"


if __name__ == "__main__":
    main()
