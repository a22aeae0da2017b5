"""A workspace as DVC sees it: the graph of stages, hashes, stage keys, dvc.lock."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pretune.config import files
from pretune.errors import DataError, GraphError, WorkspaceError, did_you_mean
from pretune.lineage import plan
from pretune.lineage.changes import ChangeDetector, file_deps, param_deps
from pretune.lineage.code_folders import CODE
from pretune.lineage.dvc_config import keep_private, limit_retries, write_lock_atomically
from pretune.lineage.errors import plain_errors, remote_errors
from pretune.lineage.plan import Decision, RunCache

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


def find_root(start: Path | None = None) -> Path:
    """The folder that holds dvc.yaml, from `start` (default: here) upwards."""
    first = (start or Path.cwd()).resolve()
    for folder in (first, *first.parents):
        if (folder / "dvc.yaml").is_file():
            return folder
    raise WorkspaceError(f"no dvc.yaml in {first} or above it", "cd to the project's folder")


def state_dir(root: Path) -> Path:
    """The folder of locks, journals and logs, none of which is an output. A copy of a workspace uses the original's."""
    return Path(os.environ.get("PRETUNE_STATE") or root / ".pretune")


class Workspace:
    """A project folder as DVC sees it. An instance reads the files once: make a new one after changes.

    wait: wait for another dvc that holds the lock, by default in the process of a stage that dvc started. Otherwise
    `commit` raises LockedError, and a dvc.lock that is being written is an error.
    """

    def __init__(self, root: Path, *, wait: bool | None = None) -> None:
        self.root, self._wait = root, "DVC_STAGE" in os.environ if wait is None else wait
        self._detector = ChangeDetector(root, state_dir(root))
        keep_private(root)

    @cached_property
    def repo(self) -> Any:
        """DVC's Repo of the folder."""
        from dvc.exceptions import DvcException
        from dvc.repo import Repo

        for name in ("dvc.yaml", "dvc.lock"):
            files.check_conflicts(self.root / name)
        with plain_errors():
            try:
                repo = Repo(str(self.root), _wait_for_lock=self._wait)
            except DvcException as error:
                if not (self.root / ".git").exists():
                    raise WorkspaceError(
                        f"{self.root} is not in a git repository",
                        "git init && git add --all && git commit --message 'start'",
                    ) from error
                raise
        write_lock_atomically()
        limit_retries()
        repo.lock._friendly = False  # DVC would show a bar of its own while it waits
        repo.stage_cache._create_stage = RunCache(self.root, repo).create_stage
        return repo

    @cached_property
    def _stages(self) -> dict[str, Any]:
        """DVC's stages by name, in the order in which `dvc repro` runs them."""
        from dvc.exceptions import DvcException
        from dvc.repo.reproduce import plan_repro

        with plain_errors():
            try:
                graph = self.repo.index.graph
            except DvcException:
                if not self._wait:
                    raise
                with self.repo.lock:  # a dvc of the user's was writing dvc.lock, which it does in place
                    self.repo._reset()
                    graph = self.repo.index.graph
            return {stage.name: stage for stage in plan_repro(graph) if getattr(stage, "name", None)}

    @cached_property
    def nodes(self) -> dict[str, Node]:
        """The stages, upstream first. Raises GraphError if dvc.yaml is broken or has a cycle."""
        stages = self._stages
        graph = self.repo.index.graph
        return {
            name: Node(
                name=name,
                desc=stage.desc or "",
                deps=[dep.def_path for dep in file_deps(stage)],
                params=[param for dep in param_deps(stage) for param in dep.params],
                outs=[out.def_path for out in stage.outs],
                upstream=[
                    up_name for up in graph.successors(stage) if (up_name := getattr(up, "name", None)) in stages
                ],
                meta=stage.meta or {},
            )
            for name, stage in stages.items()
        }

    def node(self, name: str) -> Node:
        """One stage. Raises GraphError, with the nearest name, if there is none of this name."""
        if name not in self.nodes:
            raise GraphError(
                f"no stage `{name}` in dvc.yaml{did_you_mean(name, self.nodes)}; there are: {', '.join(self.nodes)}",
                "pretune plan",
            )
        return self.nodes[name]

    def with_upstream(self, names: list[str]) -> list[str]:
        """The named stages (default: all) and all that they depend on, upstream first."""
        selected: set[str] = set()
        pending = [self.node(name).name for name in names] or list(self.nodes)
        while pending:
            name = pending.pop()
            selected.add(name)
            pending += [up for up in self.nodes[name].upstream if up not in selected]
        return [name for name in self.nodes if name in selected]

    def check_inputs(self, names: list[str]) -> None:
        """Raise DataError with every missing file that these stages read and no stage writes."""
        outs = {out for node in self.nodes.values() for out in node.outs}
        deps = {path for name in self.with_upstream(names) for path in self.nodes[name].deps}
        missing = sorted(path for path in deps - outs if not (self.root / path).exists())
        if missing:
            raise DataError([f"{path} is missing" for path in missing], "restore it, or remove it from dvc.yaml")

    def entry(self, name: str) -> Entry:
        """What determines a stage's outputs: command, hashes of dependencies, params, paths of outputs.

        Raises DataError if a dependency is missing.
        """
        stage = self._stages[name]
        if missing := [dep.def_path for dep in file_deps(stage) if not dep.exists]:
            raise DataError([f"{path} is missing" for path in missing], f"pretune run {name}   (makes what it needs)")
        with plain_errors():
            return {
                "cmd": stage.cmd,
                "deps": {dep.def_path: dep.get_hash().value for dep in file_deps(stage)},
                "params": {key: value for dep in param_deps(stage) for key, value in dep.read_params().items()},
                "outs": sorted(out.def_path for out in stage.outs),
            }

    def outputs(self, name: str) -> dict[str, str]:
        """{path: md5} of the outputs of a stage that exist, computed from the files."""
        with plain_errors():
            return {out.def_path: out.get_hash().value for out in self._stages[name].outs if out.exists}

    def inputs(self, name: str) -> dict[str, str]:
        """{path: md5} of the data that a stage reads and that exist, computed from the files."""
        with plain_errors():
            files = [dep for dep in file_deps(self._stages[name]) if dep.exists and not dep.def_path.startswith(CODE)]
            return {dep.def_path: dep.get_hash().value for dep in files}

    def locked_outputs(self) -> dict[str, str]:
        """{path: md5} of every output and dependency that dvc.lock records."""
        path = self.root / "dvc.lock"
        with plain_errors():
            locked = YAML(typ="safe", pure=True).load(path) if path.is_file() else None
            stages = (locked or {}).get("stages", {}).values()
            return {
                file["path"]: file["md5"] for stage in stages for key in ("deps", "outs") for file in stage.get(key, [])
            }

    def missing_from_remote(self, hashes: list[str]) -> list[str]:
        """The hashes of outputs that DVC's default remote lacks; none if there is no remote."""
        from dvc.config import Config

        if not Config(str(self.root / ".dvc"))["core"].get("remote"):
            return []
        with plain_errors(), remote_errors():
            odb = self.repo.cloud.get_remote_odb()
            return [md5 for md5 in hashes if not odb.exists(md5)]

    def is_orphan(self, name: str) -> bool:
        """Whether the dvc that started this process for a stage has been killed since.

        A running dvc writes its pid for each output into the rwlock file. It must be an ancestor of this process.
        """
        import psutil

        try:
            locks = json.loads((self.root / ".dvc" / "tmp" / "rwlock").read_text(encoding="utf-8"))["write"]
        except (OSError, ValueError, KeyError):
            return False
        outs = {str(self.root / path) for path in self.nodes[name].outs}
        holders = {int(holder["pid"]) for path, holder in locks.items() if path in outs}
        return bool(holders) and not holders & {process.pid for process in psutil.Process().parents()}

    def plan(self, names: list[str]) -> list[Decision]:
        """What a run of `names` would do. Nothing is written and nothing runs."""
        stages = [self._stages[name] for name in self.with_upstream(names)]
        with plain_errors():
            return plan.decide(stages, self._detector, RunCache(self.root, self.repo))

    def pull(self, names: list[str]) -> None:
        """Fetch what a run of `names` would compute, and somebody has pushed, from DVC's default remote to the cache.

        Raises WorkspaceError if the remote does not answer, RefusedError if it refuses.
        """
        stages = [self._stages[name] for name in self.with_upstream(names)]
        with plain_errors(), remote_errors():
            plan.decide(stages, self._detector, RunCache(self.root, self.repo, pull=True))

    def why(self, name: str) -> dict[str, Any]:
        """What changed since dvc.lock: see ChangeDetector.changes."""
        self.node(name)
        with plain_errors():
            return self._detector.changes(self._stages[name])

    def checkout(self, names: list[str] | None = None) -> None:
        """Restore missing outputs of these stages (default: all) from the cache, as dvc.lock records them."""
        recorded = [name for name in names or self.nodes if all(out.hash_info for out in self._stages[name].outs)]
        if recorded:  # DVC would complain about a stage that never ran
            with plain_errors():
                self.repo.checkout([self._target(name) for name in recorded], force=True, allow_missing=True)

    def commit(self, name: str) -> None:
        """Record a stage that ran without DVC in dvc.lock."""
        with plain_errors(), _quiet():
            self.repo.commit(self._target(name), force=True)
        self.order_lock()

    def _target(self, name: str) -> str:
        """The address of a stage for DVC, from any working directory."""
        return f"{self.root / 'dvc.yaml'}:{name}"

    def _in_order(self, names: list[str]) -> list[str]:
        """`names` in the order of the graph; stages that are not in it come last."""
        return [*[name for name in self.nodes if name in names], *[name for name in names if name not in self.nodes]]

    def order_lock(self) -> None:
        """Put the stages of dvc.lock in the order of a full `dvc repro`, whichever ended first."""
        path = self.root / "dvc.lock"
        names = _STAGE.findall(path.read_text(encoding="utf-8")) if path.is_file() else []
        if names == self._in_order(names):  # the usual case; parsing the YAML takes a third of a second
            return
        yaml = YAML()
        with plain_errors(), self.repo.lock:
            content = yaml.load(path)
            stages = content["stages"]
            content["stages"] = {name: stages[name] for name in self._in_order(list(stages))}
            from dvc.utils.serialize import dump_yaml

            partial = files.partial_of(path)
            dump_yaml(str(partial), json.loads(json.dumps(content)))
            os.replace(partial, path)


def stage_key(entry: Entry) -> str:
    """The sha256 of a stage's inputs: it identifies the result on any machine."""
    return hashlib.sha256(json.dumps(entry, sort_keys=True, default=str).encode()).hexdigest()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep DVC's messages from standard output, which may hold JSON."""
    logger = logging.getLogger("dvc")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
