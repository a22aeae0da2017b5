"""MLflow: sends journals on, and reads back what was recorded. The only module that imports mlflow.

Run ids are always passed: MLflow's active run is thread-local, and MLFLOW_RUN_ID hijacks runs.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import threading
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pretune import journal
from pretune.errors import LockedError, WorkspaceError
from pretune.journal import Run
from pretune.process import lock

__all__ = ["Record", "Run", "Sender", "connect", "records", "tracking_uri"]

EXPERIMENT = "pretune"
PATIENCE = 60.0  # seconds that the end of a run waits for records that are still being sent
BATCH = 500  # metrics a request; MLflow takes 1000


def prepare_environment() -> None:
    """Set what MLflow reads from the environment; call before it is imported."""
    for name in ("MLFLOW_RUN_ID", "MLFLOW_PARENT_RUN_ID"):
        os.environ.pop(name, None)
    os.environ |= {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")


def tracking_uri(root: Path) -> str:
    """Where runs are recorded: MLFLOW_TRACKING_URI, else mlflow.db in the workspace."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root / 'mlflow.db'}"


def connect(root: Path, state: Path) -> tuple[Any, str]:
    """A client and the id of the experiment, both created where they are missing."""
    prepare_environment()
    import mlflow

    for name in ("mlflow", "alembic"):  # after the import, which sets them to INFO
        logging.getLogger(name).setLevel(logging.ERROR)
    uri = tracking_uri(root)
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    client = mlflow.MlflowClient(uri)
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    with _creating(root, state):
        found = client.get_experiment_by_name(name)
        if found:
            return client, found.experiment_id
        location = (root / "mlartifacts").as_uri() if uri.startswith("sqlite:") else None
        return client, client.create_experiment(name, artifact_location=location)


def _creating(root: Path, state: Path) -> ExitStack:
    """Four processes that create one SQLite file at once all crash: one does, the others wait."""
    stack = ExitStack()
    if not (root / "mlflow.db").exists():
        for _ in range(600):
            try:
                stack.enter_context(lock(state / "locks" / "mlflow.lock", "creating mlflow.db"))
                break
            except LockedError:
                time.sleep(0.1)
    return stack


class Sender:
    """Sends journals to MLflow from a thread of its own, so that nothing waits for a server.

    One sender at a time serves a workspace, with the lock `locks/sender.lock`; a second one waits
    for its turn, and its journals are usually sent by then. Journals left by processes that were
    killed are sent too, and their runs end as KILLED.
    """

    def __init__(self, root: Path, state: Path) -> None:
        self.root, self.state = root, state
        self.error = ""
        self._mine: list[Path] = []
        self._closing = threading.Event()
        self._failed = 0
        self._thread = threading.Thread(target=self._serve, name="tracking", daemon=True)

    def start(self) -> Sender:
        """Begin to send."""
        prepare_environment()
        self._thread.start()
        return self

    def close(self, mine: Iterable[Run]) -> str:
        """Wait until the journals of `mine` are sent; return a warning where they were not."""
        self._mine = [run.path for run in mine]
        self._closing.set()
        self._thread.join(PATIENCE)
        left = [path for path in self._mine if path.exists()]
        if not left:
            return ""
        return (
            f"MLflow at {tracking_uri(self.root)} could not be reached ({self.error or 'too slow'}): "
            f"{len(left)} runs are kept in {journal.folder(self.state)} and sent with the next run"
        )

    def _serve(self) -> None:
        while True:
            try:
                with lock(self.state / "locks" / "sender.lock", "a sender"):
                    self._send_all()
                return
            except LockedError:
                if self._closing.wait(0.2) and not any(path.exists() for path in self._mine):
                    return
                time.sleep(0.05)
            except Exception as error:  # tracking never stops a run
                self.error = _first_line(error)
                self._failed += 1
                if self._closing.is_set() or self._closing.wait(min(60.0, 2.0**self._failed)):
                    return

    def _send_all(self) -> None:
        outbox = Outbox(self.root, self.state)
        while True:
            last = self._closing.is_set()  # what is written before close() is in the pass after it
            outbox.send()
            if last:
                return
            self._closing.wait(0.5)


class Outbox:
    """One pass after another over all journals, each taken up where it was left."""

    def __init__(self, root: Path, state: Path) -> None:
        self.root, self.folder = root, journal.folder(state)
        self.client, self.experiment = connect(root, state)
        self._ids: dict[str, str] = {}

    def send(self) -> None:
        """Send what is new."""
        for path in sorted(self.folder.glob("*.jsonl")) if self.folder.is_dir() else []:
            self._send(path)

    def _send(self, path: Path) -> None:
        alive = journal.is_being_written(path)  # asked before reading: what a dead writer wrote is all there
        progress = path.with_suffix(".sent")
        sent = json.loads(progress.read_text(encoding="utf-8")) if progress.exists() else {"run_id": None, "offset": 0}
        events, end = journal.read(path, sent["offset"])
        if not events and alive:
            return
        if sent["run_id"] is None:
            sent["run_id"] = self._find(path.stem) or self._create(events[0])
        run_id = self._ids[path.stem] = sent["run_id"]
        self._log(run_id, events)
        last = events[-1] if events and events[-1]["event"] == "end" else None
        if last or not alive:
            self.client.set_terminated(run_id, last["status"] if last else "KILLED", last["time"] if last else None)
            path.unlink()
            progress.unlink(missing_ok=True)
            return
        partial = progress.with_suffix(".partial")
        partial.write_text(json.dumps(sent | {"offset": end}), encoding="utf-8")
        partial.rename(progress)

    def _create(self, start: dict[str, Any]) -> str:
        tags = {"mlflow.source.type": "PROJECT", "mlflow.source.name": "pretune", **start["tags"]}
        if start["parent"]:
            parent = self._ids.get(start["parent"]) or self._find(start["parent"])
            tags |= {"pretune.parent": start["parent"]} | ({"mlflow.parentRunId": parent} if parent else {})
        run = self.client.create_run(self.experiment, start["time"], tags, run_name=start["name"])
        return str(run.info.run_id)

    def _find(self, identity: str) -> str | None:
        """The MLflow run of a journal, if it was created before."""
        found = self.client.search_runs([self.experiment], f"tags.`pretune.id` = '{identity}'", max_results=1)
        return found[0].info.run_id if found else None

    def _log(self, run_id: str, events: list[dict[str, Any]]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        metrics, params, tags = [], [], []
        for event in events:
            match event["event"]:
                case "metrics":
                    metrics += [Metric(k, v, event["time"], event["step"]) for k, v in event["values"].items()]
                case "params":
                    params += [Param(k, v) for k, v in event["values"].items()]
                case "tags":
                    tags += [RunTag(k, v) for k, v in event["values"].items()]
                case "input":
                    self._log_input(run_id, event)
                case "text":
                    self.client.log_text(run_id, event["content"], event["name"])
                case "model":
                    self._log_model(run_id, event)
                case "copy":
                    self._copy(run_id, event["stage_key"])
        self.client.log_batch(run_id, params=params, tags=tags)
        for start in range(0, len(metrics), BATCH):
            self.client.log_batch(run_id, metrics=metrics[start : start + BATCH])

    def _log_input(self, run_id: str, event: dict[str, Any]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag, RunTag

        source = json.dumps({"path": event["path"], "md5": event["md5"]})
        data = Dataset(event["path"], event["md5"], "dvc", source)
        self.client.log_inputs(run_id, [DatasetInput(data, [InputTag("mlflow.data.context", "input")])])
        self.client.log_batch(run_id, tags=[RunTag(f"dvc.in.{event['path']}", event["md5"])])

    def _log_model(self, run_id: str, event: dict[str, Any]) -> None:
        import mlflow.pyfunc
        from mlflow.entities import LoggedModelOutput
        from mlflow.models import Model

        path = Path(event["path"])
        if not path.is_dir():
            return  # replayed after the folder was removed: the tags still lead to DVC's cache
        logged = self.client.create_logged_model(
            self.experiment, event["name"], run_id, {"dvc.md5": event["md5"]}, model_type="pretune"
        )
        answer = "label" if "ForSequenceClassification" in (path / "config.json").read_text("utf-8") else "text"
        with tempfile.TemporaryDirectory() as folder:
            mlflow.pyfunc.save_model(
                Path(folder) / "model",
                loader_module="predictor",
                data_path=str(path),
                code_paths=[str(Path(__file__).parent / "models" / "predictor.py")],
                mlflow_model=Model(run_id=run_id, model_id=logged.model_id),
                signature=_signature(answer),
                pip_requirements=_requirements(),
                metadata={"examples": event["examples"]},
            )
            self.client.log_model_artifacts(logged.model_id, str(Path(folder) / "model"))
        self.client.finalize_logged_model(logged.model_id, "READY")
        self.client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, 0)])

    def _copy(self, run_id: str, stage_key: str) -> None:
        """Metrics, histories and models of the latest run that executed the stage with these inputs."""
        from mlflow.entities import LoggedModelOutput, RunTag

        source = f"tags.`pretune.stage_key` = '{stage_key}' and tags.`pretune.status` = 'executed'"
        found = self.client.search_runs(
            [self.experiment], f"{source} and attributes.status = 'FINISHED'", max_results=1
        )
        made_by = found[0].info.run_id if found else "unknown"
        self.client.log_batch(run_id, tags=[RunTag("pretune.source_run", made_by)])
        if not found:
            return
        history = [m for key in found[0].data.metrics for m in self.client.get_metric_history(made_by, key)]
        for start in range(0, len(history), BATCH):
            self.client.log_batch(run_id, metrics=history[start : start + BATCH])
        models = found[0].outputs.model_outputs if found[0].outputs else []
        if models:
            self.client.log_outputs(run_id, [LoggedModelOutput(m.model_id, 0) for m in models])


def _signature(answer: str) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    return ModelSignature(
        Schema([ColSpec("string", "text")]), Schema([ColSpec("string", answer), ColSpec("double", "score")])
    )


def _requirements() -> list[str]:
    from importlib import metadata

    return [f"{name}=={metadata.version(name).split('+')[0]}" for name in ("torch", "transformers", "pandas")]


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


@dataclass(frozen=True)
class Record:
    """One run as MLflow has it; `inputs` and `outputs` are {path: md5}."""

    run_id: str
    name: str
    status: str
    started: int
    parent: str | None
    tags: dict[str, str]
    params: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    models: list[str] = field(default_factory=list)

    @property
    def executed(self) -> bool:
        """Whether the stage really ran, rather than being found in the cache."""
        return self.tags.get("pretune.status") == "executed"


def records(root: Path, state: Path) -> list[Record]:
    """Every run of the workspace, the oldest first. WorkspaceError where MLflow does not answer."""
    try:
        client, experiment = connect(root, state)
        found: list[Any] = []
        token = None
        while token is not None or not found:
            page = client.search_runs([experiment], order_by=["attributes.start_time ASC"], page_token=token)
            found += page
            token = page.token
            if not token:
                break
    except Exception as error:
        raise WorkspaceError(
            f"MLflow at {tracking_uri(root)} does not answer: {_first_line(error)}", "pretune doctor"
        ) from error
    return [_record(run) for run in found]


def _record(run: Any) -> Record:
    tags = run.data.tags
    return Record(
        run_id=run.info.run_id,
        name=run.info.run_name,
        status=run.info.status,
        started=run.info.start_time,
        parent=tags.get("mlflow.parentRunId"),
        tags=tags,
        params=run.data.params,
        inputs={key.removeprefix("dvc.in."): md5 for key, md5 in tags.items() if key.startswith("dvc.in.")},
        outputs={key.removeprefix("dvc.out."): md5 for key, md5 in tags.items() if key.startswith("dvc.out.")},
        models=[output.model_id for output in (run.outputs.model_outputs if run.outputs else [])],
    )
