"""Sends journals to MLflow: creates runs and logs their metrics, params, tags, artifacts and models."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pretune.config.files import write_atomically
from pretune.errors import DataError
from pretune.tracking import journal
from pretune.tracking.client import connect, create_once, first_line, tag_name
from pretune.tracking.journal import ARTIFACT

PACKAGE = Path(__file__).parents[1]  # pretune
REFUSED = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST"}  # error codes that no retry fixes
LINK = re.compile(rf"\]\({ARTIFACT}([^)]*)\)")
LATER = "model.json"  # artifact of a trial's stage: what it says of its model, which MLflow does not have yet
BATCH = 500  # metrics per request; MLflow takes 1000
MESSAGE = ("content", "reasoning", "tool_call_id", "name")  # texts of a message that may lack (data/rows.py)


class Outbox:
    """Sends what is new in journals since the last call; it remembers on disk how far each was sent."""

    def __init__(self, root: Path, state: Path) -> None:
        self._root, self._state = root, state
        self.client, self.experiment = connect(root, state)
        self._ids: dict[str, str] = {}

    def send(self, paths: Iterable[Path]) -> None:
        """Send what is new. A journal that cannot be sent is renamed to *.refused, so that the others can be.

        Raises what MLflow raises if it does not answer, or if its experiment was deleted: no journal could be sent.
        While a run is going on, an error that a retry may fix is raised as well.
        """
        for path in paths:
            try:
                self._send(path)
            except Exception as error:  # of any kind: a damaged file, a run that is gone, a value that is too large
                if getattr(error, "error_code", None) not in REFUSED and journal.is_being_written(path):
                    raise
                connect(self._root, self._state)
                refused = path.with_suffix(".refused")
                refused.with_suffix(".refused.txt").write_text(first_line(error), encoding="utf-8")
                path.rename(refused)

    def _send(self, path: Path) -> None:
        alive = journal.is_being_written(path)  # before reading: if the writer has ended, all of it is there
        progress = path.with_suffix(".sent")  # "<run id> <byte offset>"
        run_id, _, offset = (progress.read_text(encoding="utf-8") if progress.is_file() else "").partition(" ")
        events, end = journal.read(path, int(offset or 0))
        if not events and alive:
            return
        if not events and not run_id:
            raise DataError(f"{path.name} is damaged: it holds no event")
        interrupted = progress.exists()  # if without a run id, a sender was killed here: it may have created the run
        progress.touch()
        run_id = run_id or (self._find(path.stem) if interrupted else None) or self._create(events[0])
        self._ids[path.stem] = run_id
        self._log(run_id, events)
        last = events[-1] if events and events[-1]["event"] == "end" else None
        if last or not alive:
            self.client.set_terminated(run_id, last["status"] if last else "KILLED", last["time"] if last else None)
            path.unlink()
            with suppress(OSError):  # the next sender removes it
                progress.unlink()
            return
        write_atomically(progress, f"{run_id} {end}")

    def _create(self, start: dict[str, Any]) -> str:
        if start.get("continues") and (former := self._find(start["continues"])):
            self.client.update_run(former, status="RUNNING")
            return former
        tags = {"mlflow.source.type": "PROJECT", "mlflow.source.name": "pretune", **start["tags"]}
        if start["parent"]:
            parent = self._ids.get(start["parent"]) or self._find(start["parent"])
            tags |= {"pretune.parent": start["parent"]} | ({"mlflow.parentRunId": parent} if parent else {})

        def create() -> str:
            run = self.client.create_run(self.experiment, start["time"], tags, run_name=start["name"])
            return str(run.info.run_id)

        return str(create_once(create, lambda: self._find(tags["pretune.id"])))

    def _find(self, journal_id: str) -> str | None:
        """The MLflow run of a journal, if it was created before."""
        runs = self.client.search_runs([self.experiment], f"tags.`pretune.id` = '{journal_id}'", max_results=1)
        return runs[0].info.run_id if runs else None

    def _log(self, run_id: str, events: list[dict[str, Any]]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        metrics, params, tags = [], [], []
        for event in events:
            match event["event"]:
                case "metrics":
                    time, step = event["time"], event["step"]
                    metrics += [Metric(tag_name(k), v, time, step) for k, v in event["values"].items()]
                case "params":
                    params += [Param(tag_name(k), v) for k, v in event["values"].items()]
                case "tags":
                    tags += [RunTag(tag_name(k), self._linked(run_id, v)) for k, v in event["values"].items()]
                case "input":
                    self._log_input(run_id, event)
                case "text":
                    self.client.log_text(run_id, event["content"], event["name"])
                case "model":
                    self._log_model(run_id, event)
                case "copy":
                    self._copy(run_id, event)
        self.client.log_batch(run_id, params=params, tags=tags)
        for start in range(0, len(metrics), BATCH):
            self.client.log_batch(run_id, metrics=metrics[start : start + BATCH])

    def _linked(self, run_id: str, text: str) -> str:
        """A description whose links to artifacts have the addresses of MLflow's pages."""
        address = f"#/experiments/{self.experiment}/runs/{run_id}/artifacts/"
        return LINK.sub(lambda link: f"]({address}{link[1]}?workflowType=machine_learning)", text)

    def _log_input(self, run_id: str, event: dict[str, Any]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag, RunTag

        source = json.dumps({"path": event["path"], "md5": event["md5"]})
        data = Dataset(event["path"], event["md5"], "dvc", source)
        self.client.log_inputs(run_id, [DatasetInput(data, [InputTag("mlflow.data.context", "input")])])
        self.client.log_batch(run_id, tags=[RunTag(tag_name(f"dvc.in.{event['path']}"), event["md5"])])

    def _log_model(self, run_id: str, event: dict[str, Any]) -> None:
        import mlflow.pyfunc
        import pandas as pd
        from mlflow.models import Model
        from mlflow.utils.file_utils import get_local_path_or_none

        if event.get("later"):
            self.client.log_text(run_id, json.dumps(event), LATER)
            self.client.set_tag(run_id, "pretune.model_later", event["path"])
            return
        path = Path(event["path"])
        if not path.is_dir():
            return  # the folder was removed before it was sent; the tags still lead to DVC's cache
        logged = self._model(run_id, event)
        config = json.loads((path / "pretune.json").read_text(encoding="utf-8"))
        local = get_local_path_or_none(logged.artifact_location)
        with tempfile.TemporaryDirectory() as folder:  # of the server's, if that is where artifacts are
            target = Path(local or folder) / ("" if local else "model")
            shutil.rmtree(target, ignore_errors=True)  # of a sender that was killed
            mlflow.pyfunc.save_model(
                target,
                loader_module="predictor.model",
                data_path=str(path),
                code_paths=[str(PACKAGE / "predictor")],
                mlflow_model=Model(run_id=run_id, model_id=logged.model_id),
                signature=_signature(config),
                pip_requirements=_requirements(),
                input_example=pd.DataFrame(
                    [{key: journal.decode(value) for key, value in row.items()} for row in event["examples"]]
                ),
            )
            if not local:
                self.client.log_model_artifacts(logged.model_id, str(target))
        self.client.finalize_logged_model(logged.model_id, "READY")
        self._link(run_id, [logged.model_id])

    def _link(self, run_id: str, models: list[str]) -> None:
        """Make models outputs of a run. MLflow refuses those that are: a sender that was killed may have sent them."""
        from mlflow.entities import LoggedModelOutput

        def missing() -> list[str]:
            outputs = self.client.get_run(run_id).outputs
            linked = {model.model_id for model in outputs.model_outputs} if outputs else set()
            return [model for model in models if model not in linked]

        def link() -> bool:
            self.client.log_outputs(run_id, [LoggedModelOutput(model, 0) for model in missing()])
            return True

        if missing():
            create_once(link, lambda: None if missing() else True)

    def _model(self, run_id: str, event: dict[str, Any]) -> Any:
        """The LoggedModel of a run: that which a sender made before it was killed, else a new one."""
        query = f"source_run_id = '{run_id}' AND name = '{event['name']}'"

        def find() -> Any:
            return next(iter(self.client.search_logged_models([self.experiment], query, max_results=1)), None)

        def create() -> Any:
            return self.client.create_logged_model(
                self.experiment, event["name"], run_id, {"dvc.md5": event["md5"]}, model_type="pretune"
            )

        return find() or create_once(create, find)

    def _copy(self, run_id: str, event: dict[str, Any]) -> None:
        """Copy metrics, with their history, and models of the newest run that executed the stage with these inputs."""
        from mlflow.entities import RunTag

        outputs = event.get("outputs", {})
        query = f"tags.`pretune.stage_key` = '{event['stage_key']}' and tags.`pretune.status` = 'executed'"
        for path, md5 in list(outputs.items())[:1]:  # first, as it is faster: few runs have an output of this path
            query = f"tags.`{tag_name(f'dvc.out.{path}')}` = '{md5}' and {query}"
        query += " and attributes.status = 'FINISHED'"
        source = next(iter(self.client.search_runs([self.experiment], query, max_results=1)), None)
        source_id = source.info.run_id if source else "unknown"
        self.client.log_batch(run_id, tags=[RunTag("pretune.source_run", source_id)])
        if not source:
            return
        history = [m for key in source.data.metrics for m in self.client.get_metric_history(source_id, key)]
        for start in range(0, len(history), BATCH):
            self.client.log_batch(run_id, metrics=history[start : start + BATCH])
        models = source.outputs.model_outputs if source.outputs else []
        if models:
            self._link(run_id, [model.model_id for model in models])
        elif event.get("root") and "pretune.model_later" in source.data.tags:
            self._log_later(run_id, source, event)

    def _log_later(self, run_id: str, source: Any, event: dict[str, Any]) -> None:
        """Log the model of a trial, whose files a run has restored, for that run and for the one that trained it."""
        with tempfile.TemporaryDirectory() as folder:
            path = self.client.download_artifacts(source.info.run_id, LATER, folder)
            model = json.loads(Path(path).read_text(encoding="utf-8"))
        restored = next((name for name, md5 in event["outputs"].items() if md5 == model["md5"]), None)
        if restored:
            self._log_model(source.info.run_id, model | {"path": str(Path(event["root"]) / restored), "later": False})
            models = self.client.get_run(source.info.run_id).outputs.model_outputs
            self._link(run_id, [logged.model_id for logged in models])


def _signature(config: dict[str, dict[str, str]]) -> Any:
    """MLflow's signature of the columns that a model reads and returns.

    A type is `string`, `list(double)` and the like, followed by `?` if the column may be missing; `any` is JSON of any
    shape, as tools, which are a list of schemas or its text. MLflow refuses keys of a message that are not named here.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import AnyType, Array, Object, Property

    texts = [Property(name, DataType.string, required=False) for name in MESSAGE]
    others = [Property("tool_calls", AnyType(), required=False), Property("weight", DataType.double, required=False)]
    message = Object([Property("role", DataType.string), *texts, *others])

    def schema(columns: dict[str, str]) -> Any:
        specs = []
        for name, column_type in columns.items():
            inner = column_type.removesuffix("?").removeprefix("list(").removesuffix(")")
            type_ = {"message": message, "any": AnyType()}.get(inner, inner)
            type_ = Array(type_) if column_type.startswith("list(") else type_
            specs.append(ColSpec(type_, name, required=not column_type.endswith("?")))
        return Schema(specs)

    return ModelSignature(schema(config["reads"]), schema(config["gives"]))


def _requirements() -> list[str]:
    from importlib import metadata

    return [f"{name}=={metadata.version(name).split('+')[0]}" for name in ("torch", "transformers", "pandas")]
