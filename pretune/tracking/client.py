"""Connects to MLflow.

Run ids are always passed: MLflow's active run is thread-local, and MLFLOW_RUN_ID hijacks runs.
"""

from __future__ import annotations

import gc
import logging
import os
import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pretune.errors import WorkspaceError
from pretune.process import lock

EXPERIMENT = "pretune"


def prepare_environment() -> None:
    """Set what MLflow reads from the environment; call before it is imported."""
    for name in ("MLFLOW_RUN_ID", "MLFLOW_PARENT_RUN_ID"):
        os.environ.pop(name, None)
    os.environ |= {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")


def tracking_uri(root: Path) -> str:
    """Where runs are recorded: MLFLOW_TRACKING_URI, else mlflow.db in the workspace."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root / 'mlflow.db'}"


def open_client(root: Path, state: Path) -> Any:
    """MLflow's client. With its stores it is thousands of modules, in which looking for garbage often costs 0.4 s."""
    prepare_environment()
    gc.set_threshold(100_000, 20, 20)
    import mlflow

    for name in ("mlflow", "alembic"):  # after the import, which sets them to INFO
        logging.getLogger(name).setLevel(logging.ERROR)
    with _connecting(state):
        return mlflow.MlflowClient(tracking_uri(root), tracking_uri(root))


def _connecting(state: Path) -> AbstractContextManager[None]:
    """Four processes that create one SQLite file at once all crash: one does, the others wait."""
    return lock(state / "locks" / "mlflow.lock", "connecting to MLflow", wait=True)


def connect(root: Path, state: Path) -> tuple[Any, str]:
    """A client and the id of the experiment, both created where they are missing."""
    client = open_client(root, state)
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    with _connecting(state):
        found = client.get_experiment_by_name(name)
        if found:
            return client, found.experiment_id
        location = (root / "mlartifacts").as_uri() if tracking_uri(root).startswith("sqlite:") else None
        return client, client.create_experiment(name, artifact_location=location)


def model_folder(root: Path, state: Path, model_id: str) -> Path:
    """The files of a LoggedModel as its stage left them, fetched once. WorkspaceError where MLflow lacks them."""
    kept = state / "models" / model_id
    if not kept.is_dir():
        connect(root, state)
        from mlflow.artifacts import download_artifacts

        partial = kept.with_name(model_id + ".partial")
        partial.mkdir(parents=True, exist_ok=True)
        try:
            download_artifacts(f"models:/{model_id}", dst_path=str(partial), tracking_uri=tracking_uri(root))
        except Exception as error:
            what = f"the model {model_id} cannot be fetched: {first_line(error)}"
            raise WorkspaceError(what, "pretune doctor") from error
        partial.rename(kept)
    described = YAML(typ="safe", pure=True).load(next(kept.rglob("MLmodel")))
    return next(kept.rglob("MLmodel")).parent / str(described["flavors"]["python_function"]["data"])


def tag_name(name: str) -> str:
    """MLflow takes letters, digits and `/_.-: ` in the name of a tag."""
    return re.sub(r"[^\w/.\-: ]", "_", name)


def first_line(error: Exception) -> str:
    """What is wrong, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
