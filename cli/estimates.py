"""Estimates what the stages of a plan will cost that work with a model: each is tried in a process of its own.

`python -m cli.estimates STAGE [PENDING_MODEL …]` is that process. It imports what the stage imports, so that it needs
as much memory, reads the stage's inputs, and leaves nothing but the estimate.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from pretune.config.params import Params, load
from pretune.errors import PretuneError
from pretune.evaluation.names import PRETRAINED
from pretune.lineage.graph import Node, Workspace, state_dir
from pretune.lineage.plan import Decision
from pretune.objectives.requirements import TAUGHT
from pretune.runtime.launcher import trains
from pretune.runtime.stage import StageInputs

if TYPE_CHECKING:
    from pretune.training.job import Job

Estimate = dict[str, Any]
OTHERS = ("evaluate", "teacher")  # than training (cli/dry_runs.py)
READ = {"data/prepared/labelled", "data/prepared/corpus", PRETRAINED}  # in a trial of `evaluate`
HEADINGS = ("stage", "parameters", "FLOPs a step", "FLOPs in all", "memory at most", "time")


def estimates(root: Path, decisions: list[Decision], report: Callable[[str], None]) -> dict[str, Estimate]:
    """An estimate for each stage that will run and works with a model, or {"unknown": reason}."""
    nodes, params, by_stage = Workspace(root).nodes, load(root / "params.yaml"), {}
    actions = {decision.stage: decision.action for decision in decisions}
    tried: dict[str, list[str]] = {}
    given = {PRETRAINED} if _unchanged(params) else set()  # it will be the checkpoint
    for name in [name for name, action in actions.items() if action == "run" and _works(nodes[name], params)]:
        node = nodes[name]
        pending = [up for up in node.upstream if actions.get(up, "skip") != "skip" and not given & set(nodes[up].outs)]
        missing = [path for path in node.data if path not in given and not (root / path).exists()]
        later: list[str] = []  # models of which the pretrained one takes the place
        if name == "evaluate":
            later = [path for up in pending for path in nodes[up].outs if path.startswith("models/")]
            pending = [up for up in pending if not READ.isdisjoint(nodes[up].outs)]
            missing = [path for path in missing if path in READ]
        if name == "pretrain" and _unchanged(params):
            by_stage[name] = {"unknown": "it trains no step: the checkpoint stays as it is"}
        elif pending:
            by_stage[name] = {"unknown": f"it reads what {', '.join(pending)} will make"}
        elif missing:
            by_stage[name] = {"unknown": f"{', '.join(missing)} is missing"}
        else:
            tried[name] = later
            by_stage[name] = {}
    with ExitStack() as stack:  # all import at once, then one after the other is measured
        children = {name: stack.enter_context(_start(root, name, later)) for name, later in tried.items()}
        for name, child in children.items():
            report(f"trying {name} for some seconds (not with --quick) …")
            by_stage[name] = _finish(child)
    return by_stage


def _works(node: Node, params: Params) -> bool:
    """Whether a stage trains, evaluates, or asks a teacher."""
    return (
        trains(node, params)
        or node.name == "evaluate"
        or (node.name == "teacher" and params.finetune.objective in TAUGHT)
    )


def _unchanged(params: Params) -> bool:
    """Whether `pretrain` leaves a checkpoint as it is."""
    return params.model.init is not None and not params.pretrain.steps


def rows(by_stage: dict[str, Estimate]) -> list[tuple[str, ...]]:
    """The estimates that are known, as rows under HEADINGS."""
    return [(name, *_row(estimate)) for name, estimate in by_stage.items() if "unknown" not in estimate]


def unknown(by_stage: dict[str, Estimate]) -> list[str]:
    """A line for each stage without an estimate."""
    reasons = {name: estimate["unknown"] for name, estimate in by_stage.items() if "unknown" in estimate}
    return [f"{name}: no estimate, {reason}" for name, reason in reasons.items()]


@contextmanager
def _start(root: Path, name: str, later: list[str]) -> Iterator[subprocess.Popen[str]]:
    """The process of a stage, which waits for a line before it measures."""
    with subprocess.Popen(
        [sys.executable, "-m", "cli.estimates", name, *later],
        cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8",
    ) as child:  # fmt: skip
        try:
            yield child
        finally:
            child.kill()


def _finish(child: subprocess.Popen[str]) -> Estimate:
    """Let the process measure; what it has found."""
    output, errors = child.communicate("\n")
    if child.returncode:
        lines = errors.strip().splitlines() or [f"ended with {child.returncode}"]
        return {"unknown": f"the trial failed: {lines[-1]}"}
    return dict(json.loads(output.splitlines()[-1]))


def _row(estimate: Estimate) -> tuple[str, ...]:
    sizes = [_short(estimate[key]) if key in estimate else "" for key in ("parameters", "flops_per_step", "flops")]
    return *sizes, f"{estimate['memory_gb']:.1f} GB", f"{estimate['seconds']:.0f} s"


def _short(number: float) -> str:
    """1.4M, 489.0G."""
    for unit in ("", "k", "M", "G", "T", "P"):
        if number < 1000:
            return f"{number:.1f}{unit}"
        number /= 1000
    return f"{number:.1f}E"


class DryRunStage(StageInputs):
    """The argument of a training stage's `prepare` function in place of the stage; it writes to `folder` only.

    pending: models that will be made, in whose place is the pretrained one.
    """

    def __init__(self, root: Path, node: Node, params: Any, folder: Path, pending: Collection[str] = ()) -> None:
        self.name, self.params, self._root, self._node, self._folder = node.name, params, root, node, folder
        self._pending = pending

    @override
    def resolve_input(self, place: str) -> Path:
        return self._root / place

    @override
    def dep(self, path: str) -> Path:
        path = PRETRAINED if path in self._pending else path
        return self._pretrained if path == PRETRAINED and _unchanged(self.params) else self._root / path

    @cached_property
    def _pretrained(self) -> Path:
        """What `pretrain` will make of the checkpoint, which is not copied for that."""
        from tasks import pretrain

        pretrain.link(self, self._folder / "pretrained")
        return self._folder / "pretrained"

    @override
    def declared(self, folder: str) -> list[str]:
        return [path for path in self._node.deps if path.startswith(f"{folder}/")]


def estimate(name: str, pending: list[str], folder: Path) -> Estimate:
    """What a stage will cost. pending: models that are not there yet. folder: for temporary files."""
    began = time.perf_counter()
    gc.disable()  # what imports make stays, and searching it for garbage takes a third of their time
    import importlib

    tried = importlib.import_module("cli.dry_runs" if name in OTHERS else f"tasks.{name}")
    root = Path.cwd()
    stage = DryRunStage(root, Workspace(root).node(name), load(root / "params.yaml"), folder, pending)
    took = time.perf_counter() - began
    sys.stdin.readline()  # the stage before is measured
    began = time.perf_counter() - took
    return dict(getattr(tried, name)(stage, began)) if name in OTHERS else _training(stage, tried.prepare(stage), began)


def _training(stage: StageInputs, job: Job, began: float) -> Estimate:
    """Compute the cost of a stage's job, and time some of its steps. began: when the process did."""
    from pretune.training import memory, parallel
    from pretune.training.estimate import dry_run, saving

    launch, world = stage.params.launch, parallel.single_process()
    processes = launch.processes * launch.nodes
    memory_before = memory.held(world.device)
    cost = job.cost(stage.name, world.device, processes=processes, strategy=launch.strategy)
    startup = time.perf_counter() - began
    gc.enable()
    gc.freeze()
    result = dry_run.timed(job, world, processes, cost.snapshot)
    saved = saving.timed(job.model, state_dir(Path.cwd()))
    return {
        "parameters": cost.parameters,
        "flops_per_step": cost.flops,
        "steps": job.steps,
        "flops": cost.flops * job.steps,
        "memory_gb": max(result.memory, memory_before, memory.highest(world.device)) / 1e9,
        "seconds": startup + result.training + saved,
        "seconds_per_step": result.step,
    }


def main() -> None:
    """Print the estimate as JSON, or {"unknown": reason} for a user's mistake."""
    from tasks.__main__ import OFFLINE  # which imports what every stage imports

    os.environ |= OFFLINE
    try:
        with tempfile.TemporaryDirectory(prefix="pretune-plan-") as folder:
            result = estimate(sys.argv[1], sys.argv[2:], Path(folder))
    except PretuneError as error:
        result = {"unknown": "; ".join(error.problems)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
