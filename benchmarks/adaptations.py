"""What adaptations cost and lead to, all from one pretrained model: `make bench-adaptations`.

    .venv/bin/python benchmarks/adaptations.py lora dora            # these only
    .venv/bin/python benchmarks/adaptations.py --seeds 5            # finetunings of each, 3 by default
    .venv/bin/python benchmarks/adaptations.py --set pretrain.steps=300

Pretrains once in a copy of this workspace, by its params.yaml, then finetunes and evaluates with
each adaptation and each seed: by hand (`python -m tasks`), for DVC would pretrain anew for a new seed.
Prints a table in Markdown. What a stage takes of time and memory includes loading; the interval is
over the test rows of the first seed, the spread is the standard deviation over the seeds.
Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from overhead import call, copy_project

from pretune.config import overrides, params
from pretune.lineage.graph import state_dir
from pretune.tracking.records import Records

LEAST = ["evaluate.attributions=0", "evaluate.mistakes=0", "evaluate.slices=[]"]  # nobody reads these reports
FULL = "5e-4"  # that of params.yaml; the rates of the others are as usual for them: what is new and small learns faster
VARIANTS: dict[str, tuple[str, dict[str, Any], str, float]] = {  # name: method, settings, learning rate, layer_decay
    "full": ("full", {}, FULL, 1.0),
    "full, layer_decay 0.8": ("full", {}, FULL, 0.8),
    "gradual": ("gradual", {"epochs_per_layer": 1.0}, FULL, 1.0),
    "top, 1 layer": ("top", {"layers": 1}, "1e-3", 1.0),
    "head": ("head", {}, "1e-2", 1.0),
    "lora": ("lora", {"r": 8, "lora_alpha": 16}, "5e-3", 1.0),
    "dora": ("dora", {"r": 8, "lora_alpha": 16}, "5e-3", 1.0),
    "ia3": ("ia3", {}, "2e-2", 1.0),
}
COSTS = ("trained_parameters", "trained_share", "memory_gb", "seconds")
HEAD = (
    "| adaptation | rate | trained parameters | share | memory, GB | seconds | {metric} | 95 % interval (seed {seed}) "
    "| mean of {seeds} seeds | spread |\n|---|---|---|---|---|---|---|---|---|---|"
)


def main() -> None:
    """Print a line for each variant that is named, or for all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", help=f"of: {'; '.join(VARIANTS)}")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of params.yaml")
    arguments = parser.parse_args()
    if unknown := set(arguments.variants) - set(VARIANTS):
        parser.error(f"no variant {', '.join(unknown)}; there are: {'; '.join(VARIANTS)}")
    with tempfile.TemporaryDirectory() as folder:
        workspace = copy_project(Path(folder) / "pretune")
        change(workspace, LEAST + arguments.set)
        call([sys.executable, "-m", "cli.app", "run", "--no-prefect"], workspace)
        original = (workspace / "params.yaml").read_text(encoding="utf-8")
        first = params.load(workspace / "params.yaml").seed
        metric = next(iter(reported(workspace)["finetuned"]))  # of the report the one that models are told apart by
        print(HEAD.format(metric=metric, seed=first, seeds=arguments.seeds), flush=True)
        for name in arguments.variants or VARIANTS:
            results, costs = [], []
            for seed in range(first, first + arguments.seeds):
                (workspace / "params.yaml").write_text(original, encoding="utf-8")
                change(workspace, [*settings(name), f"seed={seed}"])
                for stage in ("finetune", "evaluate"):
                    call([sys.executable, "-m", "tasks", stage], workspace)
                results.append(reported(workspace)["finetuned"][metric])
                costs.append(cost(workspace))
            print(line(name, results, costs), flush=True)


def settings(name: str) -> list[str]:
    """What a variant sets in params.yaml."""
    method, own, rate, decay = VARIANTS[name]
    chosen = {"adaptation.method": method, "adaptation.settings": json.dumps(own)}
    chosen |= {"finetune.learning_rate": rate, "finetune.layer_decay": str(decay)}
    return [f"{key}={value}" for key, value in chosen.items()]


def change(workspace: Path, assignments: list[str]) -> None:
    """Write values into the workspace's params.yaml."""
    overrides.override(workspace / "params.yaml", assignments, workspace / "params.yaml")


def reported(workspace: Path) -> dict[str, Any]:
    """What `evaluate` last found."""
    return dict(json.loads((workspace / "reports" / "metrics.json").read_text(encoding="utf-8")))


def cost(workspace: Path) -> dict[str, float]:
    """What is on record of the last finetuning."""
    return Records(workspace, state_dir(workspace)).newest("finetune")[0].metrics


def line(name: str, results: list[dict[str, float]], costs: list[dict[str, float]]) -> str:
    """A row of the table: costs are medians over the seeds."""
    middle = {key: statistics.median(each[key] for each in costs) for key in COSTS}
    values = [each["value"] for each in results]
    spread = f"{statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return (
        f"| {name} | {VARIANTS[name][2]} | {middle['trained_parameters']:,.0f} | {middle['trained_share']:.2%} "
        f"| {middle['memory_gb']:.2f} | {middle['seconds']:.1f} | {values[0]:.3f} "
        f"| {results[0]['low']:.3f} to {results[0]['high']:.3f} | {statistics.mean(values):.3f} | {spread} |"
    )


if __name__ == "__main__":
    main()
