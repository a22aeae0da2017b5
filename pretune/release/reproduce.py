"""Reproduces the outputs of a run from its commit, parameters and data, and compares them."""

from __future__ import annotations

import ast
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from configparser import ConfigParser
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ruamel.yaml import YAML

from pretune.config.files import flatten
from pretune.errors import NotFoundInRecordsError, StageFailedError, WorkspaceError
from pretune.evaluation import names
from pretune.lineage import dvc_config
from pretune.lineage.graph import Workspace
from pretune.release.runs import Runs
from pretune.tracking.record import Record

Verdict = Literal["bitwise", "within tolerance", "different"]
LOSS_TOLERANCE = 0.01  # relative difference of a training loss
TAIL = 15  # lines of the output of a stage that failed
REMOVED_VARIABLES = ("MLFLOW_", "PRETUNE_", "DVC_", "PREFECT_")  # prefixes


@dataclass(frozen=True)
class Output:
    """An output of a stage, and its MD5 hashes: as recorded, and of the reproduction."""

    stage: str
    path: str
    md5: str
    again: str


@dataclass(frozen=True)
class Reproduction:
    """The verdict, all outputs, and notes on how much the outputs differ."""

    verdict: Verdict
    outputs: list[Output]
    notes: list[str]


def reproduce(runs: Runs, name: str, report: Callable[[str], None]) -> Reproduction:
    """Rerun the run of a stage, or all stages of a pipeline run, an alias or a git revision, in a git worktree.

    The verdict is stored as tags of the run; for an alias or a revision, of the run of its evaluation.
    """
    run, stages = _select(runs, name)
    outputs: list[Output] = []
    notes: list[str] = []
    within_tolerance = True
    with _worktree(runs, runs.records.executed(run)) as tree:
        nodes = Workspace(tree).nodes
        stages.sort(key=lambda record: list(nodes).index(record.name))
        declared = {param for record in stages for param in nodes[record.name].params}
        restore_params(tree / "params.yaml", {k: v for record in stages for k, v in record.params.items()}, declared)
        _restore_inputs(runs, tree, stages)
        for record in stages:
            report(f"{record.name} …")
            _run(tree, record.name)
            hashes = Workspace(tree).outputs(record.name)
            compared = [
                Output(record.name, path, md5, hashes.get(path, "")) for path, md5 in sorted(record.outputs.items())
            ]
            outputs += compared
            if any(output.md5 != output.again for output in compared):
                tolerable, note = is_within_tolerance(tree, record)
                within_tolerance = within_tolerance and tolerable
                notes.append(note)
    same = all(output.md5 == output.again for output in outputs)
    verdict: Verdict = "bitwise" if same else "within tolerance" if within_tolerance else "different"
    tags = {"verdict": verdict, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "notes": "; ".join(notes)}
    runs.tag(run, {f"pretune.reproduced.{key}": value for key, value in tags.items()})
    return Reproduction(verdict, outputs, notes)


def _select(runs: Runs, name: str) -> tuple[Record, list[Record]]:
    """The run that gets the verdict, and the runs of the stages that are to be reproduced."""
    run = runs.run(name)
    if run is None:
        evaluation = runs.evaluation(name)
        return evaluation.run, list(evaluation.stages.values())
    if run.is_pipeline:
        stages = [runs.records.executed(child) for child in runs.records.children(run)]
    else:
        stages = [runs.records.executed(run)]
    if not stages or any(not record.outputs for record in stages):
        raise NotFoundInRecordsError(f"run {run.run_id} ({run.name}) has no outputs on record", "pretune run")
    return run, stages


@contextmanager
def _worktree(runs: Runs, run: Record) -> Iterator[Path]:
    """A git worktree at the run's commit, with its uncommitted changes and the DVC cache of this workspace."""
    commit = run.tags.get("git.commit", "none")
    with tempfile.TemporaryDirectory(prefix="pretune-reproduce-") as folder:
        tree = Path(folder) / "worktree"
        _git(runs.root, "worktree", "add", "--detach", str(tree), commit)
        try:
            if run.tags.get("git.dirty") == "true":
                patch = Path(folder) / "changes.patch"
                patch.write_text(runs.artifact(run, "changes.patch"), encoding="utf-8")
                _git(tree, "apply", "--allow-empty", str(patch))  # empty if all its files are left out
            cache = dvc_config.cache_dir(runs.root)
            dvc_config.write_config(tree, ConfigParser(interpolation=None), {"cache": {"dir": str(cache)}})
            yield tree
        finally:
            _git(runs.root, "worktree", "remove", "--force", str(tree))


def _git(root: Path, *arguments: str) -> None:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise WorkspaceError(f"git {arguments[0]}: {done.stderr.strip().splitlines()[-1]}", "git status")


def restore_params(path: Path, recorded: dict[str, str], declared: set[str]) -> None:
    """Set the declared sections to the recorded parameters, as of a run with --set; else leave the file unchanged."""
    yaml = YAML()
    yaml.preserve_quotes = True
    document = yaml.load(path)
    present = flatten(document)
    removed = [
        key for key in present if key not in recorded and any(f"{key}.".startswith(f"{top}.") for top in declared)
    ]
    changed = {key: value for key, value in recorded.items() if key not in present or str(present[key]) != value}
    for dotted in [*removed, *changed]:
        *parents, key = dotted.split(".")
        node = document
        for parent in parents:
            node = node.setdefault(parent, {})
        if dotted in changed:
            node[key] = _value(changed[dotted])
        else:
            del node[key]
    if removed or changed:
        with path.open("w", encoding="utf-8") as file:
            yaml.dump(document, file)


def _value(recorded: str) -> Any:
    """The value of a parameter that is recorded as text."""
    try:
        return ast.literal_eval(recorded)
    except (ValueError, SyntaxError):
        return recorded


def _restore_inputs(runs: Runs, tree: Path, stages: list[Record]) -> None:
    """Bring the inputs that none of the stages writes: from the DVC cache, or unchanged files of the workspace."""
    written = {path for record in stages for path in record.outputs}
    inputs = {path: md5 for record in stages for path, md5 in record.inputs.items() if path not in written}
    makers = {path: maker for path, md5 in inputs.items() if (maker := runs.records.maker(path, md5))}
    lock = {
        maker.name: {
            "cmd": f"exec python -m tasks {maker.name}",
            "outs": [{"path": path, "hash": "md5", "md5": md5} for path, md5 in maker.outputs.items()],
        }
        for maker in makers.values()
    }
    if lock:
        yaml = YAML()
        yaml.default_flow_style = False  # DVC edits the file in place, line by line
        with (tree / "dvc.lock").open("w", encoding="utf-8") as file:
            yaml.dump({"schema": "2.0", "stages": lock}, file)
        Workspace(tree).checkout(list(lock))
    for path in inputs:
        source, target = runs.root / path, tree / path
        if source.exists() and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if source.is_dir() else shutil.copy2)(source, target)
    restored = {path: md5 for record in stages for path, md5 in Workspace(tree).inputs(record.name).items()}
    problems = [
        f"{path} with md5 {md5} is neither at the commit, in DVC's cache nor in the workspace"
        for path, md5 in inputs.items()
        if restored.get(path) != md5
    ]
    if problems:
        raise NotFoundInRecordsError(problems, "dvc pull   (if a remote has it)")


def _run(tree: Path, stage: str) -> None:
    """Run a stage in the worktree; its record stays there."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(REMOVED_VARIABLES)}
    environment |= {"MLFLOW_TRACKING_URI": f"sqlite:///{tree / 'mlflow.db'}", "DVC_NO_ANALYTICS": "1"}
    command = [sys.executable, "-m", "tasks", stage]
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stdout + done.stderr).rstrip().splitlines()[-TAIL:]
        raise StageFailedError([f"{stage} failed in the worktree:", *lines], "pretune trace RUN")


def is_within_tolerance(tree: Path, record: Record) -> tuple[bool, str]:
    """Whether outputs that differ are within tolerance, and a note.

    Training: the last loss differs by at most LOSS_TOLERANCE. Evaluation: the headline is in its recorded interval.
    """
    curve = tree / "reports" / "curves" / f"{record.name}.csv"
    if curve.is_file() and "train_loss" in record.metrics:
        with curve.open(encoding="utf-8") as file:
            now = [float(row["loss"]) for row in csv.DictReader(file) if row["loss"]][-1]
        then = record.metrics["train_loss"]
        return abs(now - then) <= LOSS_TOLERANCE * abs(then), f"{record.name}: loss {then:.6g} then, {now:.6g} now"
    result = tree / "reports" / "metrics.json"
    if record.name == "evaluate" and result.is_file():
        results: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
        model = names.evaluated(results)
        headline = next(iter(results[model]))
        value = results[model][headline]["value"]
        low, high = (record.metrics[f"{model}.{headline}.{end}"] for end in ("low", "high"))
        return low <= value <= high, f"evaluate: {headline} {value:.4g} now, {low:.4g} to {high:.4g} then"
    return False, f"{record.name}: other bytes"
