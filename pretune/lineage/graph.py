"""The graph, the hashes and the stage keys, as DVC knows them. The only module that imports dvc.

`python -m pretune.lineage.dvc ARGUMENTS…` is `dvc ARGUMENTS…` in a process that dies with its parent.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from ruamel.yaml import YAML

from pretune.config.files import flatten
from pretune.errors import DataError, GraphError, LockedError, PretuneError, WorkspaceError, did_you_mean
from pretune.lineage import provenance
from pretune.lineage.dvc_config import keep_private

TORN = (0.1, 0.3, 1.0)  # seconds between attempts to read what may be half written
CODE = ("flows/", "tasks/", "pretune/")
_STAGE = re.compile(r"^  (\S+):$", re.MULTILINE)  # in dvc.lock, as DVC writes it
Entry = dict[str, Any]


@dataclass(frozen=True)
class Node:
    """A stage of dvc.yaml: what it reads and writes, and its orchestration hints."""

    name: str
    desc: str
    deps: list[str]
    params: list[str]
    outs: list[str]
    upstream: list[str]
    meta: dict[str, Any]

    @property
    def data(self) -> list[str]:
        """The dependencies that are not code."""
        return [path for path in self.deps if not path.startswith(CODE)]


@dataclass
class Decision:
    """What a pipeline run will do with a stage, and why."""

    stage: str
    action: Literal["run", "restore", "skip"]
    reasons: list[str] = field(default_factory=list)


def find_root(start: Path | None = None) -> Path:
    """The folder that holds dvc.yaml, from `start` (default: here) upwards."""
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / "dvc.yaml").is_file():
            return folder
    raise WorkspaceError(f"no dvc.yaml in {here} or above it", "cd to the project's folder")


def state_dir(root: Path) -> Path:
    """Where locks, journals and logs lie: nobody's output. A copy of a workspace uses the original's."""
    return Path(os.environ.get("PRETUNE_STATE") or root / ".pretune")


class Workspace:
    """A project folder seen through DVC. One instance is one reading: make a new one after changes.

    Where another dvc is at work, `commit` is refused or, with `wait`, waits.
    """

    def __init__(self, root: Path, *, wait: bool = False) -> None:
        self.root, self._wait = root, wait
        keep_private(root)

    @cached_property
    def repo(self) -> Any:
        """DVC's own handle of the folder."""
        from dvc.exceptions import DvcException
        from dvc.repo import Repo

        with _plain_errors():
            try:
                repo = Repo(str(self.root), _wait_for_lock=self._wait)
            except DvcException as error:
                if not (self.root / ".git").exists():
                    raise WorkspaceError(
                        f"{self.root} is not in a git repository",
                        "git init && git add --all && git commit --message 'start'",
                    ) from error
                raise
        repo.stage_cache._create_stage = self._as_cached
        return repo

    @cached_property
    def _stages(self) -> dict[str, Any]:
        """DVC's stages by name, in the order in which `dvc repro` runs them."""
        from dvc.exceptions import DvcException
        from dvc.repo.reproduce import plan_repro

        with _plain_errors():
            for pause in TORN if "DVC_STAGE" in os.environ else ():
                with suppress(DvcException):
                    _ = self.repo.index.graph
                    break
                time.sleep(pause)  # the dvc of another stage is writing dvc.lock, which it does in place
                del self.repo
            return {stage.name: stage for stage in plan_repro(self.repo.index.graph) if getattr(stage, "name", None)}

    @cached_property
    def nodes(self) -> dict[str, Node]:
        """The graph, upstream first. GraphError where dvc.yaml is broken or has a cycle."""
        stages = self._stages
        graph = self.repo.index.graph
        return {
            name: Node(
                name=name,
                desc=stage.desc or "",
                deps=[d.def_path for d in _files(stage)],
                params=[p for d in _params(stage) for p in d.params],
                outs=[out.def_path for out in stage.outs],
                upstream=[n for up in graph.successors(stage) if (n := getattr(up, "name", None)) in stages],
                meta=stage.meta or {},
            )
            for name, stage in stages.items()
        }

    def node(self, name: str) -> Node:
        """One stage; GraphError names the nearest where there is none of that name."""
        if name not in self.nodes:
            raise GraphError(
                f"no stage `{name}` in dvc.yaml{did_you_mean(name, self.nodes)}; there are: {', '.join(self.nodes)}",
                "pretune plan",
            )
        return self.nodes[name]

    def with_upstream(self, names: list[str]) -> list[str]:
        """The named stages and all that they need, upstream first; every stage where none is named."""
        wanted: set[str] = set()
        pending = [self.node(name).name for name in names] or list(self.nodes)
        while pending:
            name = pending.pop()
            wanted.add(name)
            pending += [up for up in self.nodes[name].upstream if up not in wanted]
        return [name for name in self.nodes if name in wanted]

    def check_inputs(self, names: list[str]) -> None:
        """Raise DataError for every file that these stages read, that is not there and that no stage makes."""
        made = {out for node in self.nodes.values() for out in node.outs}
        read = {path for name in self.with_upstream(names) for path in self.nodes[name].deps}
        missing = sorted(path for path in read - made if not (self.root / path).exists())
        if missing:
            raise DataError([f"{path} is missing" for path in missing], "bring it back, or take it out of dvc.yaml")

    def entry(self, name: str) -> Entry:
        """What determines a stage's outputs: command, dependencies, params, paths written.

        Raises DataError where a dependency is missing.
        """
        stage = self._stages[name]
        if missing := [d.def_path for d in _files(stage) if not d.exists]:
            raise DataError([f"{path} is missing" for path in missing], f"pretune run {name}   (makes what it needs)")
        with _plain_errors():
            return {
                "cmd": stage.cmd,
                "deps": {d.def_path: d.get_hash().value for d in _files(stage)},
                "params": {key: value for d in _params(stage) for key, value in d.read_params().items()},
                "outs": sorted(out.def_path for out in stage.outs),
            }

    def locked_entry(self, name: str) -> Entry | None:
        """The same as dvc.lock has it; None where it has none."""
        stage = self._stages[name]
        files, params = _files(stage), _params(stage)
        if stage.cmd_changed or not all(d.hash_info for d in (*files, *params)):
            return None
        return {
            "cmd": stage.cmd,
            "deps": {d.def_path: d.hash_info.value for d in files},
            "params": {key: value for d in params for key, value in d.hash_info.value.items()},
            "outs": sorted(out.def_path for out in stage.outs),
        }

    def outputs(self, name: str) -> dict[str, str]:
        """{path: md5} of what a stage has written, computed from the files."""
        with _plain_errors():
            return {o.def_path: o.get_hash().value for o in self._stages[name].outs if o.exists}

    def inputs(self, name: str) -> dict[str, str]:
        """{path: md5} of the data that a stage reads, as far as it is there, computed from the files."""
        with _plain_errors():
            files = [d for d in _files(self._stages[name]) if d.exists and not d.def_path.startswith(CODE)]
            return {d.def_path: d.get_hash().value for d in files}

    def locked_outputs(self) -> dict[str, str]:
        """{path: md5} of every output and dependency that dvc.lock records."""
        path = self.root / "dvc.lock"
        locked = YAML(typ="safe", pure=True).load(path) if path.is_file() else None
        stages = (locked or {}).get("stages", {}).values()
        return {
            each["path"]: each["md5"] for stage in stages for side in ("deps", "outs") for each in stage.get(side, [])
        }

    def missing_from_remote(self, hashes: list[str]) -> list[str]:
        """Those of these outputs that DVC's default remote does not hold; none where there is no remote."""
        from dvc.config import Config

        if not Config(str(self.root / ".dvc"))["core"].get("remote"):
            return []
        with _plain_errors():
            odb = self.repo.cloud.get_remote_odb()
            return [md5 for md5 in hashes if not odb.exists(md5)]

    def is_orphan(self, name: str) -> bool:
        """Whether this process was started for a stage by a dvc that has since been killed.

        A running dvc has its pid on each output in its rwlock file; it must be above this process.
        """
        import psutil

        try:
            held = json.loads((self.root / ".dvc" / "tmp" / "rwlock").read_text(encoding="utf-8"))["write"]
        except (OSError, ValueError, KeyError):
            return False
        outs = {str(self.root / path) for path in self.nodes[name].outs}
        holders = {int(info["pid"]) for path, info in held.items() if path in outs}
        return bool(holders) and not holders & {process.pid for process in psutil.Process().parents()}

    def plan(self, names: list[str]) -> list[Decision]:
        """What a run of `names` would do; nothing is written and nothing runs."""
        from dvc.stage.cache import _get_cache_hash
        from dvc.stage.serialize import to_single_stage_lockfile

        decisions: list[Decision] = []
        known: dict[str, str] = {}  # md5 of what a restored stage will write
        unknown: dict[str, str] = {}  # path -> the stage that will write it
        with _plain_errors():
            for name in self.with_upstream(names):
                stage = self._stages[name]
                before = {d.def_path: d.hash_info.value for d in _files(stage)}
                waits = sorted({unknown[path] for path in before if path in unknown})
                moved = [path for path in before if path in known and known[path] != before[path]]
                reasons = self._reasons(stage, known)
                if waits:
                    after = [f"after {', '.join(waits)}"]
                    decisions.append(Decision(name, "run", after + [r for r in reasons if "missing" not in r]))
                elif not reasons and not moved:
                    decisions.append(Decision(name, "skip"))
                    continue
                else:
                    for dep in stage.deps:
                        if getattr(dep, "def_path", None) in known:
                            dep.hash_info.value = known[dep.def_path]
                            dep.meta.md5 = None  # DVC's copy of the former hash
                        elif dep.exists:
                            dep.save()
                    key = _get_cache_hash(to_single_stage_lockfile(stage), key=True)
                    cached = next(
                        (c for c in self._run_cache(key) if self._as_cached(c, stage.wdir).outs_cached()), None
                    )
                    if cached:
                        decisions.append(Decision(name, "restore", reasons))
                        known |= {out["path"]: out["md5"] for out in cached["outs"]}
                        continue
                    decisions.append(Decision(name, "run", reasons or [f"{path}: changed" for path in moved]))
                unknown |= {out.def_path: name for out in stage.outs}
        return decisions

    def _run_cache(self, key: str) -> Iterator[Entry]:
        """The results that DVC's run cache holds for these inputs."""
        folder = Path(self.repo.stage_cache.cache_dir) / key[:2] / key
        for path in sorted(folder.glob("*")) if folder.is_dir() else []:
            yield YAML(typ="safe", pure=True).load(path)

    def _as_cached(self, entry: Entry, wdir: str) -> Any:
        """The stage as an entry of the run cache has it.

        As DVC's StageCache does it, which looks for dvc.yaml in the working directory, wherever the workspace is.
        """
        from dvc.stage import PipelineStage, create_stage
        from dvc.stage.loader import StageLoader

        where = {"path": str(self.root / "dvc.yaml"), "wdir": wdir, "cmd": entry["cmd"]}
        stage = create_stage(PipelineStage, repo=self.repo, outs=[out["path"] for out in entry["outs"]], **where)
        StageLoader.fill_from_lock(stage, entry)
        return stage

    def why(self, name: str) -> dict[str, Any]:
        """What changed since dvc.lock: {'params': {dotted: (old, new)}, 'deps': …, 'code': …, 'outs': …}."""
        self.node(name)
        stage = self._stages[name]
        changes: dict[str, Any] = {"params": {}, "deps": {}, "code": {}, "outs": {}, "command": bool(stage.cmd_changed)}
        with _plain_errors():
            for dep in _params(stage):
                old = flatten(dep.hash_info.value or {}) if dep.hash_info else {}
                new = flatten(dep.read_params())
                changes["params"] |= {
                    key: (old.get(key), new.get(key)) for key in [*new, *old] if old.get(key) != new.get(key)
                }
            for dep in _files(stage):
                kind = "code" if dep.def_path.startswith(CODE) else "deps"
                changes[kind] |= self._states(dep)
            for out in stage.outs:
                changes["outs"] |= _states(out)
        return changes

    def _reasons(self, stage: Any, known: dict[str, str]) -> list[str]:
        """Why DVC holds a stage stale, one line each; files that a restored stage will bring do not count."""
        if stage.cmd_changed:
            return ["the command changed"]
        if not any(dep.hash_info for dep in stage.deps):
            return ["never run here"]
        reasons = []
        for dep in _params(stage):
            for params in dep.status().values():
                reasons += [f"params {name}: {state}" for name, state in params.items()]
        for dep in _files(stage):
            if dep.def_path not in known:
                reasons += [f"{path}: {_word(state)}" for path, state in self._states(dep).items()]
        for out in stage.outs:
            reasons += [f"{path}: {_word(state)}" for path, state in _states(out).items()]
        return reasons

    def _states(self, dep: Any) -> dict[str, str]:
        """{path: how it changed}; of a folder of code the files in it that did, where they are known."""
        states = _states(dep)
        of_code = states and dep.def_path.startswith(CODE) and (self.root / dep.def_path).is_dir()
        return (of_code and self._changed_files(dep)) or states

    def _changed_files(self, dep: Any) -> dict[str, str]:
        """Since the last run, where that was here; else since the commit that dvc.lock is from."""
        folder = self.root / dep.def_path
        now, note = code_files(folder), _code_note(self.root, str(dep.hash_info.value))
        if not note.is_file():
            return provenance.changed_since(self.root, "dvc.lock", dep.def_path)
        before = json.loads(note.read_text(encoding="utf-8"))
        changed = dict.fromkeys(now.keys() - before.keys(), "new")
        changed |= dict.fromkeys(before.keys() - now.keys(), "deleted")
        changed |= {name: "modified" for name in now.keys() & before.keys() if now[name] != before[name]}
        return {f"{dep.def_path}/{name}": changed[name] for name in sorted(changed)}

    def checkout(self, names: list[str] | None = None) -> None:
        """Bring back from the cache what dvc.lock records for these stages (default: all) and the folder lacks."""
        wanted = [n for n in names or self.nodes if all(out.hash_info for out in self._stages[n].outs)]
        if wanted:  # of a stage that never ran there is nothing to bring back, of which DVC would complain
            with _plain_errors():
                self.repo.checkout([self._target(n) for n in wanted], force=True, allow_missing=True)

    def commit(self, name: str) -> None:
        """Record a stage that ran without DVC in dvc.lock."""
        with _plain_errors(), _quiet():
            self.repo.commit(self._target(name), force=True)
        self.order_lock()

    def _target(self, name: str) -> str:
        """A stage as DVC finds it from any folder."""
        return f"{self.root / 'dvc.yaml'}:{name}"

    def _in_order(self, names: list[str]) -> list[str]:
        """As in the graph, stages that it does not have last."""
        return [*[n for n in self.nodes if n in names], *[n for n in names if n not in self.nodes]]

    def order_lock(self) -> None:
        """Put the stages of dvc.lock in the order of a full `dvc repro`, whichever ended first."""
        path = self.root / "dvc.lock"
        written = _STAGE.findall(path.read_text(encoding="utf-8")) if path.is_file() else []
        if written == self._in_order(written):  # as a rule; to read it as YAML takes a third of a second
            return
        yaml = YAML()
        with _plain_errors(), self.repo.lock:
            content = yaml.load(path)
            stages = content["stages"]
            content["stages"] = {name: stages[name] for name in self._in_order(list(stages))}
            from dvc.utils.serialize import dump_yaml

            partial = path.with_name("dvc.lock.partial")
            dump_yaml(str(partial), json.loads(json.dumps(content)))
            os.replace(partial, path)


def stage_key(entry: Entry) -> str:
    """sha256 of a stage's inputs: names its result wherever it was made."""
    return hashlib.sha256(json.dumps(entry, sort_keys=True, default=str).encode()).hexdigest()


def _files(stage: Any) -> list[Any]:
    from dvc.dependency import ParamsDependency

    return [dep for dep in stage.deps if not isinstance(dep, ParamsDependency)]


def _params(stage: Any) -> list[Any]:
    from dvc.dependency import ParamsDependency

    return [dep for dep in stage.deps if isinstance(dep, ParamsDependency)]


def _states(file: Any) -> dict[str, str]:
    """{path: what is wrong with it}, by the path of dvc.yaml: DVC's own is as seen from the working directory."""
    states = list(file.status().values())
    return {file.def_path: states[0]} if states else {}


def code_files(folder: Path) -> dict[str, str]:
    """{path in the folder: md5} of the files of code that DVC hashes (.dvcignore)."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.match("*.py[co]")]
    return {path.relative_to(folder).as_posix(): hashlib.md5(path.read_bytes()).hexdigest() for path in paths}  # noqa: S324 - as DVC does


def remember_code(root: Path, entry: Entry) -> None:
    """Note which files the folders of code hold that a stage reads: DVC keeps one hash for each folder."""
    for path, md5 in entry["deps"].items():
        note = _code_note(root, md5)
        if path.startswith(CODE) and (root / path).is_dir() and not note.is_file():
            note.parent.mkdir(parents=True, exist_ok=True)
            partial = note.with_suffix(f".{os.getpid()}.partial")
            partial.write_text(json.dumps(code_files(root / path)), encoding="utf-8")
            os.replace(partial, note)


def _code_note(root: Path, md5: str) -> Path:
    return state_dir(root) / "code" / f"{md5}.json"


def _word(state: str) -> str:
    return {"deleted": "missing", "not in cache": "missing from the cache"}.get(state, state)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what DVC tells of its doings from standard output, which may hold JSON."""
    logger = logging.getLogger("dvc")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Turn DVC's exceptions into ours, so that no user meets a traceback for a mistake in dvc.yaml."""
    from dvc.exceptions import CyclicGraphError, DvcException
    from dvc.lock import LockError
    from dvc.utils.strictyaml import YAMLValidationError
    from dvc_objects.errors import ObjectFormatError
    from networkx import NetworkXError
    from ruamel.yaml.error import YAMLError

    try:
        yield
    except PretuneError:
        raise
    except LockError as error:
        raise LockedError(str(error).splitlines()[0], "wait for the other dvc command to end") from error
    except CyclicGraphError as error:
        raise GraphError(f"dvc.yaml: {error}", "edit deps and outs in dvc.yaml, then: pretune plan") from error
    except YAMLValidationError as error:
        found = [f"{'.'.join(map(str, each.path))}: {each.msg}" for each in error.exc.errors]
        raise GraphError([f"dvc.yaml: {line}" for line in found], "edit dvc.yaml, then: pretune plan") from error
    except (DvcException, NetworkXError, YAMLError, ObjectFormatError) as error:
        cause = error.__cause__ or error
        raise GraphError(
            f"dvc: {str(error) or cause}".strip(), "dvc status   (says the same in DVC's words)"
        ) from error
