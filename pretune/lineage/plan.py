"""What a pipeline run will do with each stage: run it, restore it from DVC's run cache, or skip it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ruamel.yaml import YAML

from pretune.config.files import write_atomically
from pretune.lineage.changes import ChangeDetector, file_deps


@dataclass
class Decision:
    """What a pipeline run will do with a stage, and why."""

    stage: str
    action: Literal["run", "restore", "skip"]
    reasons: list[str] = field(default_factory=list)


class RunCache:
    """DVC's run cache: the outputs of earlier runs, by the hash of their inputs.

    pull: what is not here is fetched from the default remote, an entry and its outputs at a time. `dvc pull
    --run-cache` fetches all entries, and outputs only of dvc.lock.
    """

    def __init__(self, root: Path, repo: Any, *, pull: bool = False) -> None:
        self._root, self._repo, self._pull = root, repo, pull

    def find(self, stage: Any) -> dict[str, str] | None:
        """{path: md5} of the outputs that the stage would have; None if they are not all in the cache."""
        from dvc.stage.cache import _get_cache_hash
        from dvc.stage.serialize import to_single_stage_lockfile

        key = _get_cache_hash(to_single_stage_lockfile(stage), key=True)
        if self._pull:
            self._pull_entries(key)
        for entry in self._entries(key):
            cached = self.create_stage(entry, stage.wdir)
            if self._pull and not cached.outs_cached():
                for objects in cached.get_used_objs().values():
                    self._repo.cloud.pull(objects)
            if cached.outs_cached():
                return {out["path"]: out["md5"] for out in entry["outs"]}
        return None

    def _pull_entries(self, key: str) -> None:
        """Copy the entries of one key from the remote; they lie there as here."""
        remote = self._repo.cloud.get_remote_odb(None, "fetch --run-cache", hash_name="md5-dos2unix")
        source = remote.fs.join(remote.path, "runs", key[:2], key)
        target = Path(self._repo.stage_cache.cache_dir) / key[:2] / key
        for path in remote.fs.find(source) if remote.fs.exists(source) else []:
            entry = target / remote.fs.name(path)
            if not entry.exists():
                target.mkdir(parents=True, exist_ok=True)
                write_atomically(entry, remote.fs.cat_file(path).decode())

    def _entries(self, key: str) -> Iterator[dict[str, Any]]:
        folder = Path(self._repo.stage_cache.cache_dir) / key[:2] / key
        for path in sorted(folder.glob("*")) if folder.is_dir() else []:
            yield YAML(typ="safe", pure=True).load(path)

    def create_stage(self, entry: dict[str, Any], wdir: str) -> Any:
        """The stage of an entry of the cache.

        It replaces DVC's StageCache._create_stage, which looks for dvc.yaml in the working directory of the process.
        """
        from dvc.stage import PipelineStage, create_stage
        from dvc.stage.loader import StageLoader

        place = {"path": str(self._root / "dvc.yaml"), "wdir": wdir, "cmd": entry["cmd"]}
        stage = create_stage(PipelineStage, repo=self._repo, outs=[out["path"] for out in entry["outs"]], **place)
        StageLoader.fill_from_lock(stage, entry)
        return stage


def decide(stages: Iterable[Any], detector: ChangeDetector, cache: RunCache) -> list[Decision]:
    """A decision for each of DVC's stages, which come upstream first. It changes the hashes that the objects hold."""
    decisions: list[Decision] = []
    restored: dict[str, str] = {}  # path → md5 of what restored stages will write
    pending: dict[str, str] = {}  # path → the stage that will run and write it
    for stage in stages:
        locked = {dep.def_path: dep.hash_info.value for dep in file_deps(stage)}
        waits_for = sorted({pending[path] for path in locked if path in pending})
        replaced = [path for path in locked if path in restored and restored[path] != locked[path]]
        reasons = detector.reasons(stage, restored)
        if waits_for:
            other_reasons = [reason for reason in reasons if "missing" not in reason]
            decision = Decision(stage.name, "run", [f"after {', '.join(waits_for)}", *other_reasons])
        elif not reasons and not replaced:
            decision = Decision(stage.name, "skip")
        else:
            _update_hashes(stage, restored)
            outputs = cache.find(stage)
            if outputs is not None:
                decision = Decision(stage.name, "restore", reasons)
                restored |= outputs
            else:
                decision = Decision(stage.name, "run", reasons or [f"{path}: changed" for path in replaced])
        if decision.action == "run":
            pending |= {out.def_path: stage.name for out in stage.outs}
        decisions.append(decision)
    return decisions


def _update_hashes(stage: Any, restored: Mapping[str, str]) -> None:
    """Give the dependencies the hashes that they will have when the stage runs."""
    for dep in stage.deps:
        if getattr(dep, "def_path", None) in restored:
            dep.hash_info.value = restored[dep.def_path]
            dep.meta.md5 = None  # DVC's copy of the former hash
        elif dep.exists:
            dep.save()
