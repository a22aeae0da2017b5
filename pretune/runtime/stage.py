"""A stage's contract: it reads and writes only what dvc.yaml declares; outputs appear whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

from pretune.config.files import flatten, permit
from pretune.config.params import Params, restrict_params
from pretune.errors import DataError, InputsChangedError, UndeclaredInputError
from pretune.lineage.code_folders import remember_code
from pretune.lineage.graph import Entry, Node, Workspace, stage_key, state_dir

if TYPE_CHECKING:
    from pretune.runtime.events import Record, Validation
    from pretune.runtime.progress import Progress
    from pretune.tracking.journal import Run


TRIAL = "PRETUNE_TRIAL"  # set if the run is a trial of a sweep: MLflow gets no copy of its models


class StageInputs(Protocol):
    """The argument of a training stage's `prepare` function: the stage itself, or a dry run of it."""

    name: str
    params: Params

    def dep(self, path: str) -> Path:
        """A declared input that exists."""

    def declared(self, folder: str) -> list[str]:
        """The declared inputs within a folder, in the order of dvc.yaml."""

    def resolve_input(self, place: str) -> Path:
        """The place of a path that params.yaml names."""


class Recorder(Protocol):
    """The record of a run: metrics and texts, which may vary from run to run, unlike outputs."""

    def metrics(self, values: Mapping[str, Any], step: int = 0) -> None:
        """Numbers, by name."""

    def text(self, name: str, content: str) -> None:
        """A text artifact."""


class Stage:
    """The argument of a stage function: params, inputs, outputs and record of the stage.

    `dep` and `out` take paths of dvc.yaml and raise UndeclaredInputError for any other path. entry: the inputs and
    params before anything was read. fresh: remove partial outputs of a run that was killed.
    """

    def __init__(
        self,
        root: Path,
        node: Node,
        entry: Entry,
        *,
        params: Params,
        run: Recorder,
        progress: Progress,
        fresh: bool = True,
    ) -> None:
        self.name = node.name
        self.params = restrict_params(params, node.params, node.name)
        self.run = run
        self._root, self._node, self._progress = root, node, progress
        self._written: dict[str, Path] = {}
        self._models: list[tuple[str, list[dict[str, Any]]]] = []
        self._entry = entry
        for path in node.outs if fresh else ():
            forget(_partial(root / path))

    @property
    def key(self) -> str:
        """The stage key of the inputs when the stage began."""
        return stage_key(self._entry)

    def dep(self, path: str) -> Path:
        """A declared input that exists."""
        if path not in self._node.deps:
            raise UndeclaredInputError(
                f"stage {self.name} reads {path} but dvc.yaml does not say so",
                f"add `{path}` under stages.{self.name}.deps in dvc.yaml",
            )
        target = self._root / path
        if not target.exists():
            raise DataError(f"{path} is missing", f"pretune run {self.name}   (makes what it needs)")
        return target

    def declared(self, folder: str) -> list[str]:
        """The declared inputs within a folder, in the order of dvc.yaml."""
        return [path for path in self._node.deps if path.startswith(f"{folder}/")]

    def resolve_input(self, place: str) -> Path:
        """The place of a path that params.yaml names; dvc.yaml has to declare it or a folder that contains it."""
        path = PurePosixPath(place)
        for declared in (path, *path.parents):
            with contextlib.suppress(UndeclaredInputError):
                return self.dep(str(declared)) / path.relative_to(declared)
        stage = "" if self.name == "ingest" else f" --stage {self.name}"
        raise UndeclaredInputError(
            f"stage {self.name} reads {place}, which dvc.yaml does not list", f"pretune data declare '{place}'{stage}"
        )

    def out(self, path: str) -> Path:
        """Where to write a declared output: a temporary sibling, renamed when the stage succeeds."""
        if path not in self._node.outs:
            raise UndeclaredInputError(
                f"stage {self.name} writes {path} but dvc.yaml does not say so",
                f"add `{path}` under stages.{self.name}.outs in dvc.yaml",
            )
        target = self._root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        self._written[path] = _partial(target)
        return self._written[path]

    def warn(self, text: str) -> None:
        """Show a warning on the terminal of the run."""
        self._progress.warn(text)

    def progress(self, done: int, total: int, note: str) -> None:
        """Tell that `done` of `total` parts are finished, and what comes now."""
        self._progress.update(done, total, note)

    def model(self, path: str, examples: list[dict[str, Any]]) -> None:
        """Declare that the output `path` is a model, with example rows to predict."""
        self._models.append((path, examples))

    def metrics_of(self, path: str, stage: str) -> dict[str, float]:
        """The metrics of the run of `stage` that made the input `path`; {} if it was not the last run here.

        They vary from run to run, so they go to the record of this stage, never into an output.
        """
        file = state_dir(self._root) / "stages" / f"{stage}.json"
        facts = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        md5 = facts.get("outputs", {}).get(path)
        return dict(facts["metrics"]) if md5 == self._entry["deps"][path] else {}

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints. A change of `launch` does not change it: training resumes."""
        return checkpoint_folder(state_dir(self._root), self._entry)

    def reporter(self, steps: int, *, before: int = 0, name: str = "") -> Callable[[Record | Validation], None]:
        """A callback for the training loop, which updates the progress bar and the metrics of the run.

        name, before: for a stage that trains several models, the name of this one and the steps before it.
        """
        metric_prefix, note_prefix = (f"{name}.", f"{name}  ") if name else ("", "")

        def report(event: Record | Validation) -> None:
            values = asdict(event)
            step = values.pop("step")
            if "metrics" in values:
                validated = {f"{metric_prefix}validation_{key}": value for key, value in values["metrics"].items()}
                self.run.metrics(validated, step)
                if not name:
                    self._progress.validated(step, values["metrics"])
                return
            values = {key: value for key, value in values.items() if value is not None}
            self._progress.update(before + step, steps, note_prefix + _note(values))
            self.run.metrics({f"{metric_prefix}{key}": value for key, value in values.items()}, step)

        return report


class PublishedStage(Stage):
    """A stage in the process that publishes its outputs and keeps its record."""

    run: Run

    def log_inputs(self) -> None:
        """Record params, data and stage key; note which files of code the stage reads."""
        remember_code(self._root, state_dir(self._root), self._entry)
        self.run.params(flatten(self._entry["params"]))
        for path in self._node.data:
            self.run.input(path, self._entry["deps"][path])
        self.run.tags({"pretune.stage": self.name, "pretune.stage_key": self.key})

    def publish(self) -> None:
        """Rename the outputs into place. Raises InputsChangedError if an input changed while the stage was running.

        DVC hashes params and dependencies after the stage. Without this check dvc.lock would record an edit made
        during the run as an input of the run.
        """
        missing = [path for path in self._node.outs if not self._written.get(path, Path("/nowhere")).exists()]
        if missing:
            raise DataError([f"stage {self.name} did not write {path}" for path in missing])
        now = Workspace(self._root)
        if changed := self._changed_inputs(now):
            kept = self._root / ".pretune" / "kept" / f"{self.name}-{self.key[:12]}"
            self._move_to(kept)
            raise InputsChangedError(
                [f"{change} while {self.name} was running" for change in changed],
                f"pretune run   (the result is kept in {kept.relative_to(self._root)})",
            )
        for path, written in self._written.items():
            if written.is_dir():
                permit(written)
            _replace(written, self._root / path)
        outputs = now.outputs(self.name)
        for path, md5 in outputs.items():
            self.run.output(path, md5)
        forget(self.checkpoints)  # nothing is left to resume
        for path, examples in self._models:
            self.run.model(Path(path).name, self._root / path, outputs[path], examples, later=TRIAL in os.environ)

    def discard(self) -> None:
        """Remove the partial outputs of a stage that failed."""
        for written in self._written.values():
            forget(written)

    def _changed_inputs(self, workspace: Workspace) -> list[str]:
        try:
            now = workspace.entry(self.name)
        except DataError as error:  # an input is gone
            return error.problems
        old, new = flatten(self._entry["params"]), flatten(now["params"])
        changed = [
            f"params {key} changed from {old.get(key)} to {new.get(key)}"
            for key in old | new
            if old.get(key) != new.get(key)
        ]
        return changed + [
            f"{path} changed" for path, md5 in self._entry["deps"].items() if now["deps"].get(path) != md5
        ]

    def _move_to(self, folder: Path) -> None:
        forget(folder)
        for path, written in self._written.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(written, target)


def checkpoint_folder(state: Path, entry: Entry) -> Path:
    """Where the training of a stage with these inputs keeps its checkpoints."""
    params = {key: value for key, value in entry["params"].items() if key.partition(".")[0] != "launch"}
    return state / "checkpoints" / stage_key(entry | {"params": params})


def _note(values: dict[str, float]) -> str:
    """The values of a record in one line."""
    used = f"  {values['utilisation']:.0%} util".replace("%", " %") if "utilisation" in values else ""
    tokens = values["tokens_per_second"]
    speed = f"{tokens / 1000:.1f}k tok/s{used}" if tokens >= 1000 else f"{tokens:.0f} tok/s{used}"
    return f"loss {values['loss']:.3f}  lr {values['learning_rate']:.1e}  {speed}  {values['memory_gb']:.1f} GB"


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _replace(source: Path, target: Path) -> None:
    """Replace `target` by `source`. A kill between the two renames leaves no target, never a mixture of both."""
    trash = target.with_name(f".{target.name}.old.partial")
    forget(trash)
    if target.exists():
        os.rename(target, trash)
    os.rename(source, target)
    forget(trash)


def forget(path: Path) -> None:
    """Remove a file or folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
