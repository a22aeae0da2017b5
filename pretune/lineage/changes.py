"""What changed in the inputs and outputs of a stage since dvc.lock was written."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from typing import Any

from pretune.config.files import flatten
from pretune.lineage.code_folders import CODE, changed_files

WORDS = {"deleted": "missing", "not in cache": "missing from the cache"}  # for states of DVC


class ChangeDetector:
    """Compares DVC's stage objects with the files of a workspace."""

    def __init__(self, root: Path, state: Path) -> None:
        self._root, self._state = root, state

    def reasons(self, stage: Any, restored: Container[str]) -> list[str]:
        """Why the stage is out of date, one line each. Ignores the paths in `restored`: they will be restored first."""
        if stage.cmd_changed:
            return ["the command changed"]
        if not any(dep.hash_info for dep in stage.deps):
            return ["never run here"]
        reasons = []
        for dep in param_deps(stage):
            for params in dep.status().values():
                reasons += [f"params {name}: {state}" for name, state in params.items()]
        states: dict[str, str] = {}
        for dep in file_deps(stage):
            if dep.def_path not in restored:
                states |= self._states_of_dep(dep)
        for out in stage.outs:
            states |= _states(out)
        return reasons + [f"{path}: {WORDS.get(state, state)}" for path, state in states.items()]

    def changes(self, stage: Any) -> dict[str, Any]:
        """{'params': {dotted name: (old, new)}, 'deps': {path: state}, 'code': …, 'outs': …, 'command': bool}."""
        params: dict[str, tuple[Any, Any]] = {}
        for dep in param_deps(stage):
            old = flatten(dep.hash_info.value or {}) if dep.hash_info else {}
            new = flatten(dep.read_params())
            params |= {key: (old.get(key), new.get(key)) for key in [*new, *old] if old.get(key) != new.get(key)}
        states: dict[str, dict[str, str]] = {"deps": {}, "code": {}, "outs": {}}
        for dep in file_deps(stage):
            states["code" if dep.def_path.startswith(CODE) else "deps"] |= self._states_of_dep(dep)
        for out in stage.outs:
            states["outs"] |= _states(out)
        return {"params": params, **states, "command": bool(stage.cmd_changed)}

    def _states_of_dep(self, dep: Any) -> dict[str, str]:
        """{path: how it changed}; of a folder of code, the files that changed, if they are known."""
        states = _states(dep)
        if states and dep.def_path.startswith(CODE) and (self._root / dep.def_path).is_dir():
            return changed_files(self._root, self._state, dep.def_path, str(dep.hash_info.value)) or states
        return states


def file_deps(stage: Any) -> list[Any]:
    """The files and folders that a stage depends on."""
    from dvc.dependency import ParamsDependency

    return [dep for dep in stage.deps if not isinstance(dep, ParamsDependency)]


def param_deps(stage: Any) -> list[Any]:
    """The parameters that a stage depends on, one dependency for each file of parameters."""
    from dvc.dependency import ParamsDependency

    return [dep for dep in stage.deps if isinstance(dep, ParamsDependency)]


def _states(file: Any) -> dict[str, str]:
    """{path: DVC's word for the change}, with the path of dvc.yaml: DVC gives one from the working directory."""
    states = list(file.status().values())
    return {file.def_path: states[0]} if states else {}
