"""`pretune doctor`: find problems that make runs fail or their results wrong, and how to fix them."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from packaging.requirements import InvalidRequirement, Requirement

from cli.options import Json
from pretune.config import files
from pretune.errors import PretuneError
from pretune.lineage import dvc_config, graph
from pretune.process import is_locked
from pretune.tracking import journal
from pretune.tracking.client import DeletedExperimentError, connect, open_client, tracking_uri
from pretune.tracking.refusal import refusal

DISK = 2 * 1024**3  # bytes that should be free
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


@dataclass
class Finding:
    """The result of a check. what: the subject of the check. fix: a command, if there is a problem."""

    what: str
    state: Literal["ok", "fixed", "problem"]
    detail: str
    fix: str = ""


def doctor(
    fix: Annotated[bool, typer.Option("--fix", help="Fix what can be fixed without loss.")] = False,
    as_json: Json = False,
) -> None:
    """Check versions, parameters, locks, tracking and disk; each finding comes with its fix."""
    from pretune.lineage.graph import find_root

    findings = examine(find_root(), fix=fix)
    if as_json:
        print(json.dumps([vars(finding) for finding in findings]))
    else:
        for finding in findings:
            mark = {"ok": "ok     ", "fixed": "fixed  ", "problem": "PROBLEM"}[finding.state]
            print(f"{mark}  {finding.what}: {finding.detail}")
            if finding.fix and finding.state == "problem":
                print(f"         fix: {finding.fix}")
    if any(finding.state == "problem" for finding in findings):
        raise typer.Exit(10)


def examine(root: Path, *, fix: bool = False) -> list[Finding]:
    """Run all checks; with `fix`, fix what can be fixed without loss."""
    checks = (_versions, _parameters, _graph, _locks, _tracking, _stale_runs, _disk)
    return [finding for check in checks for finding in check(root, fix)]


def _versions(root: Path, _fix: bool) -> Iterator[Finding]:
    """The installed packages have the versions of requirements.lock."""
    path, subject = root / "requirements.lock", "versions"
    if not path.is_file():
        yield Finding(subject, "problem", "requirements.lock is missing", "git checkout requirements.lock")
        return
    lines = [line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    wrong = []
    try:
        files.check_conflicts(path)
        pinned = [Requirement(line) for line in lines if line]
    except PretuneError as error:
        yield Finding(subject, "problem", str(error), error.next_step)
        return
    except InvalidRequirement as error:
        detail = f"requirements.lock: {str(error).splitlines()[0]}"
        yield Finding(subject, "problem", detail, "git checkout requirements.lock")
        return
    for requirement in pinned:
        if requirement.marker and not requirement.marker.evaluate():
            continue
        try:
            installed = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            installed = "nothing"
        if installed == "nothing" or not requirement.specifier.contains(installed, prereleases=True):
            wrong.append(f"{requirement.name} is {installed}, the lock has {requirement.specifier}")
    if wrong:
        yield Finding(subject, "problem", "; ".join(wrong), "touch requirements.lock && make setup")
    else:
        yield Finding(subject, "ok", f"as in requirements.lock ({len(pinned)} packages)")


def _parameters(root: Path, _fix: bool) -> Iterator[Finding]:
    """params.yaml fits its schema, and no text in it looks like a number."""
    from pretune.config.params import load

    try:
        load(root / "params.yaml")
    except PretuneError as error:
        for problem in error.problems:
            yield Finding("params.yaml", "problem", problem, "edit params.yaml")
        return
    values = files.flatten(files.read_yaml(root / "params.yaml"))
    texts = [key for key, value in values.items() if isinstance(value, str) and NUMBER.fullmatch(value)]
    for key in texts:
        detail = f"{key} is the text {values[key]!r}, not a number"
        yield Finding("params.yaml", "problem", detail, "write it without quotes")
    if not texts:
        yield Finding("params.yaml", "ok", f"{len(values)} values, all valid")


def _graph(root: Path, _fix: bool) -> Iterator[Finding]:
    """DVC can read dvc.yaml, and every stage has its file in tasks/."""
    try:
        names = list(graph.Workspace(root).nodes)
    except PretuneError as error:
        yield Finding("dvc.yaml", "problem", str(error), error.next_step)
        return
    missing = [name for name in names if not (root / "tasks" / f"{name}.py").is_file()]
    if missing:
        detail = f"no tasks/{missing[0]}.py for stage {missing[0]}"
        yield Finding("dvc.yaml", "problem", detail, f"write tasks/{missing[0]}.py")
    else:
        yield Finding("dvc.yaml", "ok", f"{len(names)} stages: {', '.join(names)}")


def _locks(root: Path, fix: bool) -> Iterator[Finding]:
    """Which locks are held, and whether a kill left DVC's lock file half written."""
    folder = graph.state_dir(root) / "locks"
    locked = [path.stem for path in sorted(folder.glob("*.lock")) if is_locked(path)] if folder.is_dir() else []
    yield Finding("locks", "ok", f"held by a running process: {', '.join(locked)}" if locked else "none held")
    path = root / ".dvc" / "tmp" / "rwlock"
    if not locked and path.is_file() and not _is_json(path):
        if fix and dvc_config.drop_torn_lock(root):
            yield Finding("dvc lock", "fixed", "a half-written .dvc/tmp/rwlock was removed")
        else:
            yield Finding("dvc lock", "problem", ".dvc/tmp/rwlock is half written", "pretune doctor --fix")


def _unreachable(uri: str, error: Exception) -> Finding:
    if refused := refusal(error):
        return Finding("tracking", "problem", str(refused), refused.next_step)
    detail = f"{uri} does not answer: {str(error).splitlines()[0][:120]}"
    return Finding("tracking", "problem", detail, "start the server, or unset MLFLOW_TRACKING_URI")


def _tracking(root: Path, fix: bool) -> Iterator[Finding]:
    """MLflow's store answers and is intact, and no records wait to be sent."""
    uri, state = tracking_uri(root), graph.state_dir(root)
    database = root / "mlflow.db"
    if uri.endswith(str(database)) and database.is_file():
        try:
            with closing(sqlite3.connect(database)) as connection:
                verdict = connection.execute("PRAGMA quick_check").fetchone()[0]
        except sqlite3.DatabaseError as error:
            verdict = str(error)
        if verdict != "ok":
            yield Finding(
                "tracking", "problem", f"mlflow.db: {verdict}", "mv mlflow.db mlflow.db.broken && pretune run"
            )
            return
    try:
        connect(root, state)
    except DeletedExperimentError as error:
        if fix:
            open_client(root, state).restore_experiment(error.id)
            yield Finding("tracking", "fixed", f"{error}; it is restored")
        else:
            yield Finding("tracking", "problem", f"{uri}: {error}", "pretune doctor --fix   (restores it)")
    except Exception as error:  # MLflow may raise anything
        yield _unreachable(uri, error)
    else:
        yield Finding("tracking", "ok", uri)
    folder = journal.folder(state)
    waiting = [path for path in folder.glob("*.jsonl") if not journal.is_being_written(path)]
    if waiting:
        detail = f"{len(waiting)} runs wait in {folder} to be sent to MLflow"
        yield Finding("journals", "problem", detail, "pretune run   (sends them)")
    for path in sorted(folder.glob("*.refused")):
        reason = path.with_suffix(".refused.txt").read_text(encoding="utf-8")
        detail = f"MLflow refuses the run in {path}: {reason}"
        yield Finding(
            "journals", "problem", detail, "pretune run   (sends it again); delete the file if its run is not wanted"
        )


def _stale_runs(root: Path, fix: bool) -> Iterator[Finding]:
    """No run is RUNNING in MLflow without a process."""
    state = graph.state_dir(root)
    alive = {p.stem for p in journal.folder(state).glob("*.jsonl")} if journal.folder(state).is_dir() else set()
    try:
        client, experiment = connect(root, state)
        running = client.search_runs([experiment], "attributes.status = 'RUNNING'")
    except Exception:  # _tracking reports it
        return
    stale: list[Any] = [run for run in running if run.data.tags.get("pretune.id") not in alive]
    if not stale:
        yield Finding("stale runs", "ok", "none")
        return
    ids = ", ".join(run.info.run_id[:8] for run in stale)
    if fix:
        for run in stale:
            client.set_terminated(run.info.run_id, "KILLED")
        yield Finding("stale runs", "fixed", f"marked as KILLED: {ids}")
    else:
        yield Finding("stale runs", "problem", f"RUNNING, but no process works on them: {ids}", "pretune doctor --fix")


def _disk(root: Path, _fix: bool) -> Iterator[Finding]:
    """There is enough free disk space."""
    free = shutil.disk_usage(root).free
    detail = f"{free / 1024**3:.0f} GiB free"
    state: Literal["ok", "problem"] = "ok" if free > DISK else "problem"
    yield Finding("disk", state, detail, "dvc gc --workspace   (removes cached outputs that dvc.lock does not name)")


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True
