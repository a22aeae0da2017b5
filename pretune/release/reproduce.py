"""Make what a run made once more, from its commit, parameters and data, and say how near it comes."""

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
from pretune.lineage import dvc_config
from pretune.lineage.graph import Workspace
from pretune.release.runs import Runs
from pretune.tracking.record import Record

Verdict = Literal["bitwise", "within tolerance", "different"]
LOSS = 0.01  # by which a training loss may differ, relatively
TAIL = 15  # lines shown of a stage that failed
FOREIGN = ("MLFLOW_", "PRETUNE_", "DVC_", "PREFECT_")


@dataclass(frozen=True)
class Output:
    """A path that a stage wrote: then, and now."""

    stage: str
    path: str
    md5: str
    again: str


@dataclass(frozen=True)
class Reproduction:
    """What came out; `notes` say how near what differs comes."""

    verdict: Verdict
    outputs: list[Output]
    notes: list[str]


def reproduce(runs: Runs, name: str, say: Callable[[str], None]) -> Reproduction:
    """Rerun a stage run, all stages of a pipeline run, or all that led to an alias or a git revision, in a worktree.

    The verdict is stored on the run: that of the evaluation for an alias or a revision.
    """
    asked, stages = _asked(runs, name)
    outputs: list[Output] = []
    notes: list[str] = []
    near = True
    with _worktree(runs, runs.records.executed(asked)) as tree:
        nodes = Workspace(tree).nodes
        stages.sort(key=lambda record: list(nodes).index(record.name))
        declared = {param for record in stages for param in nodes[record.name].params}
        restore_params(tree / "params.yaml", {k: v for record in stages for k, v in record.params.items()}, declared)
        _bring_inputs(runs, tree, stages)
        for record in stages:
            say(f"{record.name} …")
            _run(tree, record.name)
            now = Workspace(tree).outputs(record.name)
            found = [Output(record.name, path, md5, now.get(path, "")) for path, md5 in sorted(record.outputs.items())]
            outputs += found
            if any(each.md5 != each.again for each in found):
                close, note = nearness(tree, record)
                near = near and close
                notes.append(note)
    same = all(each.md5 == each.again for each in outputs)
    verdict: Verdict = "bitwise" if same else "within tolerance" if near else "different"
    tags = {"verdict": verdict, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "notes": "; ".join(notes)}
    runs.tag(asked, {f"pretune.reproduced.{key}": value for key, value in tags.items()})
    return Reproduction(verdict, outputs, notes)


def _asked(runs: Runs, name: str) -> tuple[Record, list[Record]]:
    """The run that gets the verdict, and those that executed what is to be made again."""
    asked = runs.run(name)
    if asked is None:
        found = runs.evaluation(name)
        return found.run, list(found.stages.values())
    if asked.name == "pipeline":
        stages = [runs.records.executed(each) for each in runs.records.children(asked)]
    else:
        stages = [runs.records.executed(asked)]
    if not stages or any(not each.outputs for each in stages):
        raise NotFoundInRecordsError(f"run {asked.run_id} ({asked.name}) has no outputs on record", "pretune run")
    return asked, stages


@contextmanager
def _worktree(runs: Runs, run: Record) -> Iterator[Path]:
    """The files at the run's commit with its changes, beside DVC's cache of this workspace."""
    commit = run.tags.get("git.commit", "none")
    with tempfile.TemporaryDirectory(prefix="pretune-reproduce-") as folder:
        tree = Path(folder) / "worktree"
        _git(runs.root, "worktree", "add", "--detach", str(tree), commit)
        try:
            if run.tags.get("git.dirty") == "true":
                patch = Path(folder) / "changes.patch"
                patch.write_text(runs.artifact(run, "changes.patch"), encoding="utf-8")
                _git(tree, "apply", "--allow-empty", str(patch))  # empty where every new file is left out of it
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
    """Make the params that the stages declare what is on record (a run with --set); else leave the file alone."""
    yaml = YAML()
    yaml.preserve_quotes = True
    document = yaml.load(path)
    known = flatten(document)
    gone = [key for key in known if key not in recorded and any(f"{key}.".startswith(f"{top}.") for top in declared)]
    changed = {key: value for key, value in recorded.items() if key not in known or str(known[key]) != value}
    for dotted in [*gone, *changed]:
        *parents, key = dotted.split(".")
        node = document
        for parent in parents:
            node = node.setdefault(parent, {})
        if dotted in changed:
            node[key] = _value(changed[dotted])
        else:
            del node[key]
    if gone or changed:
        with path.open("w", encoding="utf-8") as file:
            yaml.dump(document, file)


def _value(recorded: str) -> Any:
    """What a record's text was before `str` made it one."""
    try:
        return ast.literal_eval(recorded)
    except (ValueError, SyntaxError):
        return recorded


def _bring_inputs(runs: Runs, tree: Path, stages: list[Record]) -> None:
    """What the stages read and none of them makes: from DVC's cache, or files of the user's that are as they were."""
    made = {path for record in stages for path in record.outputs}
    wanted = {path: md5 for record in stages for path, md5 in record.inputs.items() if path not in made}
    makers = {path: maker for path, md5 in wanted.items() if (maker := runs.records.maker(path, md5))}
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
    for path in wanted:
        source, target = runs.root / path, tree / path
        if source.exists() and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if source.is_dir() else shutil.copy2)(source, target)
    there = {path: md5 for record in stages for path, md5 in Workspace(tree).inputs(record.name).items()}
    problems = [
        f"{path} with md5 {md5} is neither at the commit, in DVC's cache nor in the workspace"
        for path, md5 in wanted.items()
        if there.get(path) != md5
    ]
    if problems:
        raise NotFoundInRecordsError(problems, "dvc pull   (where a remote holds it)")


def _run(tree: Path, stage: str) -> None:
    """Run a stage by hand there; its record stays there too."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(FOREIGN)}
    environment |= {"MLFLOW_TRACKING_URI": f"sqlite:///{tree / 'mlflow.db'}", "DVC_NO_ANALYTICS": "1"}
    command = [sys.executable, "-m", "tasks", stage]
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stdout + done.stderr).rstrip().splitlines()[-TAIL:]
        raise StageFailedError([f"{stage} failed in the worktree:", *lines], "pretune trace RUN")


def nearness(tree: Path, record: Record) -> tuple[bool, str]:
    """Whether what differs is within tolerance: a training loss by LOSS, metrics by their recorded intervals."""
    curve = tree / "reports" / "curves" / f"{record.name}.csv"
    if curve.is_file() and "train_loss" in record.metrics:
        with curve.open(encoding="utf-8") as file:
            now = [float(row["loss"]) for row in csv.DictReader(file) if row["loss"]][-1]
        then = record.metrics["train_loss"]
        return abs(now - then) <= LOSS * abs(then), f"{record.name}: loss {then:.6g} then, {now:.6g} now"
    result = tree / "reports" / "metrics.json"
    if record.name == "evaluate" and result.is_file():
        found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))["finetuned"]
        metric = next(iter(found))
        value, low, high = (
            found[metric]["value"],
            *(record.metrics[f"finetuned.{metric}.{end}"] for end in ("low", "high")),
        )
        return low <= value <= high, f"evaluate: {metric} {value:.4g} now, {low:.4g} to {high:.4g} then"
    return False, f"{record.name}: other bytes"
