"""Sends journals on to MLflow.

`python -m pretune.tracking.sender ROOT STATE` sends all journals and ends; Sender starts it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pretune.process import lock
from pretune.tracking import journal
from pretune.tracking.client import connect, first_line, tag_name, tracking_uri
from pretune.tracking.journal import Run

PATIENCE = 60.0  # seconds that the end of a run waits for records that are still being sent
REFUSED = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST"}  # error codes that sending again would not mend
BATCH = 500  # metrics a request; MLflow takes 1000


class Sender:
    """Has a process of its own send journals to MLflow, so that nothing waits for a server.

    It outlives whoever started it for as long as there is something to send: runs whose process
    was killed end as KILLED. One at a time serves a workspace (`locks/sender.lock`).
    """

    def __init__(self, root: Path, state: Path) -> None:
        self.root, self.state = root, state

    def start(self) -> Sender:
        """Begin to send, now and whatever is written later."""
        log = self.state / "logs" / "sender.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        here = str(Path(__file__).parent.parent)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])}
        with log.open("w", encoding="utf-8") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "pretune.tracking.sender", str(self.root), str(self.state)],
                cwd=self.state, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                start_new_session=True,
            )  # fmt: skip
        return self

    def close(self, mine: Iterable[Run]) -> str:
        """Wait until the journals of `mine`, which have ended, are sent; return a warning if they are not."""
        paths = [run.path for run in mine]
        deadline = time.monotonic() + PATIENCE
        while self._process.poll() is None and time.monotonic() < deadline and any(p.exists() for p in paths):
            time.sleep(0.05)
        left = sum(path.exists() for path in paths)
        if not left:
            return ""
        error = _read(self.state / "logs" / "sender-error.txt") or "it takes long"
        where = journal.folder(self.state)
        return (
            f"{left} runs are not in MLflow yet ({tracking_uri(self.root)}: {error}); "
            f"they are kept in {where} and sent with the next run"
        )


def send_until_done(root: Path, state: Path) -> None:
    """Send all journals until none is left, or until nobody writes and MLflow does not answer."""
    folder, note = journal.folder(state), state / "logs" / "sender-error.txt"
    failures = 0
    with lock(state / "locks" / "sender.lock", "a sender", wait=True):
        outbox = None
        while paths := sorted(folder.glob("*.jsonl")):
            written = any(journal.is_being_written(path) for path in paths)
            try:
                outbox = outbox or Outbox(root, state)
                outbox.send(paths)
            except Exception as error:  # whatever a server or a disk does: tracking never stops a run
                note.write_text(first_line(error), encoding="utf-8")
                if not written:
                    raise
                outbox, failures = None, failures + 1
                time.sleep(min(60.0, 2.0**failures))
            else:
                note.unlink(missing_ok=True)
                failures = 0
                if written:
                    time.sleep(0.5)


class Outbox:
    """One pass after another over all journals, each taken up where it was left."""

    def __init__(self, root: Path, state: Path) -> None:
        self.client, self.experiment = connect(root, state)
        self._ids: dict[str, str] = {}

    def send(self, paths: Iterable[Path]) -> None:
        """Send what is new. A journal that MLflow refuses is set aside: it must not hold up the others."""
        from mlflow.exceptions import MlflowException

        for path in paths:
            try:
                self._send(path)
            except MlflowException as error:
                if error.error_code not in REFUSED:
                    raise
                path.rename(path.with_suffix(".refused"))

    def _send(self, path: Path) -> None:
        alive = journal.is_being_written(path)  # asked before reading: what a dead writer wrote is all there
        progress = path.with_suffix(".sent")  # "<run id> <byte offset>"
        run_id, _, offset = _read(progress).partition(" ")
        events, end = journal.read(path, int(offset or 0))
        if not events and alive:
            return
        begun = progress.exists()  # a sender was killed here: it may have created the run
        progress.touch()
        run_id = run_id or (self._find(path.stem) if begun else None) or self._create(events[0])
        self._ids[path.stem] = run_id
        self._log(run_id, events)
        last = events[-1] if events and events[-1]["event"] == "end" else None
        if last or not alive:
            self.client.set_terminated(run_id, last["status"] if last else "KILLED", last["time"] if last else None)
            path.unlink()
            progress.unlink(missing_ok=True)
            return
        partial = progress.with_suffix(".partial")
        partial.write_text(f"{run_id} {end}", encoding="utf-8")
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
                    tags += [RunTag(tag_name(k), v) for k, v in event["values"].items()]
                case "input":
                    self._log_input(run_id, event)
                case "text":
                    self.client.log_text(run_id, event["content"], event["name"])
                case "model":
                    self._log_model(run_id, event)
                case "copy":
                    self._copy(run_id, event["stage_key"], event.get("outputs", {}))
        self.client.log_batch(run_id, params=params, tags=tags)
        for start in range(0, len(metrics), BATCH):
            self.client.log_batch(run_id, metrics=metrics[start : start + BATCH])

    def _log_input(self, run_id: str, event: dict[str, Any]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag, RunTag

        source = json.dumps({"path": event["path"], "md5": event["md5"]})
        data = Dataset(event["path"], event["md5"], "dvc", source)
        self.client.log_inputs(run_id, [DatasetInput(data, [InputTag("mlflow.data.context", "input")])])
        self.client.log_batch(run_id, tags=[RunTag(tag_name(f"dvc.in.{event['path']}"), event["md5"])])

    def _log_model(self, run_id: str, event: dict[str, Any]) -> None:
        import mlflow.pyfunc
        import pandas as pd
        from mlflow.entities import LoggedModelOutput
        from mlflow.models import Model

        path = Path(event["path"])
        if not path.is_dir():
            return  # replayed after the folder was removed: the tags still lead to DVC's cache
        logged = self.client.create_logged_model(
            self.experiment, event["name"], run_id, {"dvc.md5": event["md5"]}, model_type="pretune"
        )
        facts = json.loads((path / "pretune.json").read_text(encoding="utf-8"))
        with tempfile.TemporaryDirectory() as folder:
            mlflow.pyfunc.save_model(
                Path(folder) / "model",
                loader_module="predictor.model",
                data_path=str(path),
                code_paths=[str(Path(__file__).parent / "predictor")],
                mlflow_model=Model(run_id=run_id, model_id=logged.model_id),
                signature=_signature(facts),
                pip_requirements=_requirements(),
                input_example=pd.DataFrame(
                    [{key: journal.from_text(value) for key, value in row.items()} for row in event["examples"]]
                ),
            )
            self.client.log_model_artifacts(logged.model_id, str(Path(folder) / "model"))
        self.client.finalize_logged_model(logged.model_id, "READY")
        self.client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, 0)])

    def _copy(self, run_id: str, stage_key: str, outputs: dict[str, str]) -> None:
        """Metrics, histories and models of the latest run that executed the stage with these inputs."""
        from mlflow.entities import LoggedModelOutput, RunTag

        source = f"tags.`pretune.stage_key` = '{stage_key}' and tags.`pretune.status` = 'executed'"
        for path, md5 in list(outputs.items())[:1]:  # first: all runs have a stage key, few an output of this path
            source = f"tags.`{tag_name(f'dvc.out.{path}')}` = '{md5}' and {source}"
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


def _signature(facts: dict[str, dict[str, str]]) -> Any:
    """Of the columns that a model reads and gives: `string`, `list(double)`, ...; `?` where one may be missing."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import Array, Object, Property

    message = Object([Property(name, DataType.string) for name in ("role", "content")])

    def schema(columns: dict[str, str]) -> Any:
        found = []
        for name, kind in columns.items():
            inner = kind.removesuffix("?").removeprefix("list(").removesuffix(")")
            type_ = Array(message if inner == "message" else inner) if kind.startswith("list(") else inner
            found.append(ColSpec(type_, name, required=not kind.endswith("?")))
        return Schema(found)

    return ModelSignature(schema(facts["reads"]), schema(facts["gives"]))


def _requirements() -> list[str]:
    from importlib import metadata

    return [f"{name}=={metadata.version(name).split('+')[0]}" for name in ("torch", "transformers", "pandas")]


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


if __name__ == "__main__":
    send_until_done(Path(sys.argv[1]), Path(sys.argv[2]))
