"""The records of a pipeline run in MLflow: its own, and one for each stage that did not have to run."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flows import summary
from flows.summary import Outcome
from pretune.config import files
from pretune.evaluation.metrics.headline import headline
from pretune.lineage import provenance
from pretune.lineage.code_folders import remember_code
from pretune.lineage.graph import Node, Workspace, stage_key
from pretune.tracking.journal import ARTIFACT, NOTE, Run
from pretune.tracking.sender import Sender

PAGES = {"report.html": "reports/report.html", "data-card.md": "reports/data/card.md"}  # artifact → file


class PipelineRecording:
    """Records a pipeline run from the moment it is made.

    root: where the stages run. home: the workspace that keeps the records. params: flat, by dotted name. trial: for
    one of a sweep, the sweep's record and tags; the sweep sends the records.
    """

    def __init__(
        self, root: Path, home: Path, state: Path, *, name: str, params: dict[str, Any], prefect_run: str,
        trial: tuple[str, Mapping[str, str]] | None = None,
    ) -> None:  # fmt: skip
        self._root, self._state = root, state
        flow_run = {"prefect.flow_run_id": prefect_run} if prefect_run else {}
        self._tags = provenance.tags(home) | flow_run
        parent, tags = trial or (None, {})
        self.run = Run(state, name, parent=parent, tags=self._tags | {"pretune.kind": "pipeline"} | dict(tags))
        self._sender = None if trial else Sender(home, state).start()
        self.run.params(params)
        patch = provenance.patch(home) if self._tags["git.dirty"] == "true" else ""
        if self._tags["git.dirty"] == "true":
            self.run.text("changes.patch", patch)
        self.warnings = provenance.warnings(patch)
        self._children: list[Run] = []
        self._reading = threading.Lock()

    def describe(self, results: dict[str, Any], outcomes: Iterable[Outcome]) -> None:
        """Record the results: metrics, a table as the run's description, report and data card."""
        self.run.metrics(results | headline(results))
        artifacts = {name: self._root / path for name, path in PAGES.items() if (self._root / path).is_file()}
        for name, path in artifacts.items():
            self.run.text(name, path.read_text(encoding="utf-8"))
        links = " · ".join(f"[{name}]({ARTIFACT}{name})" for name in artifacts)
        table = summary.markdown(results, outcomes)
        self.run.tags({NOTE: f"{table}\n\n{links}"})

    def describe_failure(self, problems: Iterable[str]) -> None:
        """Make the problems the run's description."""
        self.run.tags({NOTE: "\n".join(f"- {problem}" for problem in problems)})

    def add_cached_stage(self, node: Node, workspace: Workspace) -> None:
        """Record a stage that did not have to run, so that pipeline runs can be compared in full."""
        with self._reading:  # DVC's objects are not thread-safe
            entry, outputs = workspace.entry(node.name), workspace.outputs(node.name)
        remember_code(self._root, self._state, entry)
        key = stage_key(entry)
        tags = {"pretune.kind": "stage", "pretune.status": "cached"}
        tags |= {"pretune.stage": node.name, "pretune.stage_key": key}
        run = Run(self._state, node.name, parent=self.run.id, tags=self._tags | tags)
        run.params(files.flatten(entry["params"]))
        for path in node.data:
            run.input(path, entry["deps"][path])
        for path, md5 in outputs.items():
            run.output(path, md5)
        run.copy_of(key, self._root if self._sender else None)  # the copies of trials soon hold other models
        run.end("FINISHED")
        self._children.append(run)

    def backlog(self) -> str:
        """A warning if the records of earlier runs could not be sent, else ""."""
        return self._sender.backlog() if self._sender else ""

    def wait_until_sent(self) -> str:
        """Wait until MLflow has all records of the run. Returns a warning if it does not take them, else ""."""
        return self._sender.close([self.run, *self._children]) if self._sender else ""
