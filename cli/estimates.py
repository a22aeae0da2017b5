"""What the training stages of a plan will cost: each is tried for some seconds in a process of its own.

`python -m cli.estimates STAGE` is that process. It imports what the stage imports, so that it needs as much
memory, reads the stage's inputs, and writes nothing but its answer.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from typing_extensions import override

from pretune.config.params import load
from pretune.errors import PretuneError
from pretune.lineage.graph import Decision, Node, Workspace
from pretune.runtime.launcher import trains
from pretune.runtime.stage import StageInputs

Estimate = dict[str, Any]
HEADINGS = ("stage", "parameters", "FLOPs a step", "FLOPs in all", "memory at most", "time")


def estimates(root: Path, decisions: list[Decision], say: Callable[[str], None]) -> dict[str, Estimate]:
    """What each training stage that will run costs, or why that cannot be said: {"unknown": reason}."""
    nodes, params, found = Workspace(root).nodes, load(root / "params.yaml"), {}
    actions = {decision.stage: decision.action for decision in decisions}
    for name in [name for name, action in actions.items() if action == "run" and trains(nodes[name], params)]:
        node = nodes[name]
        before = [up for up in node.upstream if actions.get(up, "skip") != "skip"]
        missing = [path for path in node.data if not (root / path).exists()]
        if before:
            found[name] = {"unknown": f"it reads what {', '.join(before)} will make"}
        elif missing:
            found[name] = {"unknown": f"{', '.join(missing)} is missing"}
        else:
            say(f"trying out {name} for some seconds (--quick leaves that out) …")
            found[name] = _ask(root, name)
    return found


def rows(found: dict[str, Estimate]) -> list[tuple[str, ...]]:
    """Those that are known, as rows under HEADINGS."""
    return [(name, *_row(estimate)) for name, estimate in found.items() if "unknown" not in estimate]


def unknown(found: dict[str, Estimate]) -> list[str]:
    """A line for each that is not."""
    return [f"{name}: no estimate, {each['unknown']}" for name, each in found.items() if "unknown" in each]


def _ask(root: Path, name: str) -> Estimate:
    done = subprocess.run(
        [sys.executable, "-m", "cli.estimates", name],
        cwd=root, stdin=subprocess.DEVNULL, capture_output=True, text=True, encoding="utf-8", check=False,
    )  # fmt: skip
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
        return {"unknown": f"the trial failed: {lines[-1]}"}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _row(estimate: Estimate) -> tuple[str, ...]:
    sizes = [_short(estimate[key]) for key in ("parameters", "flops_per_step", "flops")]
    return *sizes, f"{estimate['memory_gb']:.1f} GB", f"{estimate['seconds']:.0f} s"


def _short(number: float) -> str:
    """1.4M, 489.0G."""
    for unit in ("", "k", "M", "G", "T", "P"):
        if number < 1000:
            return f"{number:.1f}{unit}"
        number /= 1000
    return f"{number:.1f}E"


class DryRunStage(StageInputs):
    """What `prepare` of a training stage needs of a Stage; it cannot write."""

    def __init__(self, root: Path, node: Node, params: Any) -> None:
        self.name, self.params, self._root = node.name, params, root

    @override
    def dep(self, path: str) -> Path:
        return self._root / path


def answer(name: str) -> Estimate:
    """Build the job of a stage, cost it, and take some steps of it."""
    began = time.perf_counter()
    import importlib

    root = Path.cwd()
    view = DryRunStage(root, Workspace(root).node(name), load(root / "params.yaml"))
    job = importlib.import_module(f"tasks.{name}").prepare(view)
    from pretune.training import memory, parallel
    from pretune.training.estimate import dry_run

    launch, world = view.params.launch, parallel.single_process()
    processes = launch.processes * launch.nodes
    held = memory.held(world.device)
    cost = job.cost(name, view.params.seed, world.device, processes=processes, strategy=launch.strategy)
    ready = time.perf_counter() - began
    tried = dry_run.timed(job, view.params.seed, world, processes, cost.snapshot)
    return {
        "parameters": cost.parameters,
        "flops_per_step": cost.flops,
        "steps": job.steps,
        "flops": cost.flops * job.steps,
        "memory_gb": max(tried.memory, held) / 1e9,
        "seconds": ready + tried.training,
        "seconds_per_step": tried.step,
    }


def main() -> None:
    """Print the answer of `answer`, or the user's mistake that it met."""
    from tasks.__main__ import NO_BARS, OFFLINE  # and with it what any stage imports

    os.environ |= OFFLINE | NO_BARS
    try:
        found = answer(sys.argv[1])
    except PretuneError as error:
        found = {"unknown": "; ".join(error.problems)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
