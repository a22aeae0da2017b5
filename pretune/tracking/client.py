"""Connects to MLflow.

Every call passes its run id: MLflow's active run is thread-local, and MLFLOW_RUN_ID would redirect it.
"""

from __future__ import annotations

import gc
import hashlib
import json
import logging
import os
import posixpath
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from ruamel.yaml import YAML

from pretune.errors import WorkspaceError
from pretune.process import lock
from pretune.tracking.refusal import refusal

EXPERIMENT = "pretune"
RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"  # of a request; read before each
NAME = 250  # characters of a name in MLflow
PERCENT = "%"
HASH = 12  # hexadecimal digits behind a name that was changed; with 4 of them, two of 600 labels were one
VIEW = {  # runs and columns behind the link of `pretune ui`, with the names of MLflow's pages
    "orderByKey": "attributes.start_time",
    "orderByAsc": False,
    "searchFilter": "",
    "startTime": "ALL",
    "lifecycleFilter": "Active",
    "modelVersionFilter": "All Runs",
    "datasetsFilter": [],
    "selectedColumns": [f"metrics.`headline/{name}`" for name in ("finetuned", "scratch", "base", "gain")],
    "runsExpanded": {},
    "runsPinned": [],
    "runsHidden": [],
    "runsHiddenMode": "FIRST_10_RUNS",
    "groupsExpanded": {},
    "useGroupedValuesInCharts": True,
    "hideEmptyCharts": True,
}
EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",  # training models, not GenAI
    "mlflow.experiment.primaryMetric.name": "headline/finetuned",
    "mlflow.sharedViewState.pretune": json.dumps(VIEW),
}


class DeletedExperimentError(WorkspaceError):
    """The experiment was deleted in MLflow; `client.restore_experiment(id)` brings it back."""

    def __init__(self, experiment: str, name: str) -> None:
        self.id = experiment
        super().__init__(f"the experiment {name} was deleted in MLflow", "pretune doctor --fix   (restores it)")


def prepare_environment() -> None:
    """Set the environment variables that MLflow reads when it is imported."""
    for name in ("MLFLOW_RUN_ID", "MLFLOW_PARENT_RUN_ID"):
        os.environ.pop(name, None)
    os.environ |= {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    os.environ.setdefault(RETRIES, "1")


def tracking_uri(root: Path) -> str:
    """Where runs are recorded: MLFLOW_TRACKING_URI, else mlflow.db in the workspace."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root / 'mlflow.db'}"


def open_client(root: Path, state: Path) -> Any:
    """MLflow's client for the workspace. Raises WorkspaceError if MLflow would keep its database elsewhere."""
    if not os.environ.get("MLFLOW_TRACKING_URI") and ("?" in str(root) or unquote(str(root)) != str(root)):
        raise WorkspaceError(
            f"MLflow cannot keep its database in {root}: it reads ? and %20 in a path as parts of an address",
            "rename the folder, or set MLFLOW_TRACKING_URI to a server",
        )
    prepare_environment()
    gc.set_threshold(100_000, 20, 20)  # collecting garbage while thousands of modules are imported takes 0.4 s
    import mlflow

    for name in ("mlflow", "alembic"):  # after the import, which sets them to INFO
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it shows a traceback of what it raises
    if PERCENT in mlflow.__file__:
        _escape_percent()
    with _connecting(state):
        return mlflow.MlflowClient(tracking_uri(root), tracking_uri(root))


def _escape_percent() -> None:
    """Have MLflow find its database migrations in a folder with a % in its path, which alembic takes for a variable."""
    from alembic.config import Config
    from mlflow.store.db import utils

    folder = os.path.join(utils._get_package_dir(), "store", "db_migrations")  # noqa: PTH118 - as MLflow does

    def config(db_url: str, alembic_dir: str | None = None) -> Any:
        found = Config(os.path.join(alembic_dir or folder, "alembic.ini"))  # noqa: PTH118
        found.set_main_option("script_location", (alembic_dir or folder).replace(PERCENT, 2 * PERCENT))
        found.set_main_option("sqlalchemy.url", db_url.replace(PERCENT, 2 * PERCENT))
        return found

    utils._get_alembic_config = config


def _connecting(state: Path) -> AbstractContextManager[None]:
    """A lock: processes that create the same SQLite file at once crash."""
    return lock(state / "locks" / "mlflow.lock", "connecting to MLflow", wait=True)


def connect(root: Path, state: Path) -> tuple[Any, str]:
    """A client and the id of the experiment, which is created if it is missing.

    Raises DeletedExperimentError if somebody has deleted it: MLflow keeps its runs, and refuses new ones.
    """
    client = open_client(root, state)
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    with _connecting(state):
        experiment = client.get_experiment_by_name(name)
        if experiment and experiment.lifecycle_stage == "deleted":
            raise DeletedExperimentError(experiment.experiment_id, name)
        if experiment:
            for key, value in EXPERIMENT_TAGS.items():
                if key not in experiment.tags:
                    client.set_experiment_tag(experiment.experiment_id, key, value)
            return client, experiment.experiment_id
        location = (root / "mlartifacts").as_uri() if tracking_uri(root).startswith("sqlite:") else None

        def create() -> str:
            return str(client.create_experiment(name, artifact_location=location, tags=EXPERIMENT_TAGS))

        def find() -> str | None:
            made = client.get_experiment_by_name(name)
            return str(made.experiment_id) if made else None

        return client, create_once(create, find)


def create_once(create: Callable[[], Any], find: Callable[[], Any]) -> Any:
    """What `create` makes in MLflow and returns; if its answer was lost, what `find` finds (None: nothing).

    MLflow's client repeats a request that had no answer, so that there would be two. Here a request is repeated when
    nothing is found.
    """
    former = os.environ.get(RETRIES)
    for is_last in (False, True):
        os.environ[RETRIES] = "0"
        try:
            return create()
        except Exception:
            _set_retries(former)
            if (found := find()) is not None:
                return found
            if is_last:
                raise
        finally:
            _set_retries(former)
    return None


def _set_retries(number: str | None) -> None:
    if number is None:
        os.environ.pop(RETRIES, None)
    else:
        os.environ[RETRIES] = number


def model_folder(root: Path, state: Path, model_id: str) -> Path:
    """The model folder of a LoggedModel, downloaded once. Raises WorkspaceError if MLflow does not have it."""
    cached = state / "models" / model_id
    if not cached.is_dir():
        connect(root, state)
        from mlflow.artifacts import download_artifacts

        partial = cached.with_name(model_id + ".partial")
        partial.mkdir(parents=True, exist_ok=True)
        try:
            download_artifacts(f"models:/{model_id}", dst_path=str(partial), tracking_uri=tracking_uri(root))
        except Exception as error:
            if refused := refusal(error):
                raise refused from error
            problem = f"the model {model_id} cannot be fetched: {first_line(error)}"
            raise WorkspaceError(problem, "pretune doctor") from error
        partial.rename(cached)
    description = next(cached.rglob("MLmodel"))
    flavors = YAML(typ="safe", pure=True).load(description)["flavors"]
    return description.parent / str(flavors["python_function"]["data"])


def tag_name(name: str) -> str:
    """`name` as the name of a tag, param or metric, which MLflow restricts.

    It allows letters, digits and `/_.-: `, no path that is not in normal form, and NAME characters. A name that has to
    be changed ends in a hash of itself, so that different names stay different: `f1/R&D` becomes `f1/R_D:5e1b…`.
    """
    cleaned = re.sub(r"[^\w/.\-: ]", "_", name)
    if not cleaned or cleaned.startswith((".", "/")) or posixpath.normpath(cleaned) != cleaned:
        cleaned = cleaned.replace("/", "_").lstrip(".") or "_"
    if cleaned == name and len(name) <= NAME:
        return name
    return f"{cleaned[: NAME - HASH - 1]}:{hashlib.sha256(name.encode()).hexdigest()[:HASH]}"


def first_line(error: Exception) -> str:
    """The message of an error, in one line of at most 200 characters, or what to do where the server refuses.

    Of a longer message its beginning and its end: at the end MLflow names the cause if a server does not answer.
    """
    if refused := refusal(error):
        return f"{refused}; {refused.next_step}"
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line if len(line) <= 200 else f"{line[:80]} … {line[-117:]}"


def page(uri: str, experiment: str) -> str:
    """The address of MLflow's list of runs, in the view for training models, with VIEW's columns."""
    return f"{uri}/#/experiments/{experiment}/runs?workflowType=machine_learning&viewStateShareKey=pretune"
