"""Workspaces whose MLflow database is there already: creating one takes seconds."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from pretune import journal
from pretune.journal import Run


@dataclass
class Tracked:
    """A folder whose runs are recorded in its own mlflow.db."""

    root: Path

    @property
    def state(self):
        """Where journals lie."""
        return self.root / ".pretune"

    def run(self, name="prepare", *, parent=None, **tags):
        """Begin a record, not in the same millisecond as the one before: MLflow orders runs by it."""
        began = time.time_ns() // 1_000_000
        while time.time_ns() // 1_000_000 <= began:
            pass
        return Run(self.state, name, parent=parent, tags=tags)

    def stage(self, name, key, *, status="executed", parent=None):
        """Begin the record of a stage with its stage key."""
        run = self.run(name, parent=parent, **{"pretune.kind": "stage", "pretune.status": status})
        run.tags({"pretune.stage_key": key})
        return run

    def waiting(self):
        """The journals that are not sent yet."""
        return sorted(journal.folder(self.state).glob("*.jsonl"))

    def send(self):
        """Send all journals once, in this process."""
        from pretune.tracking import Outbox

        Outbox(self.root, self.state).send(self.waiting())

    def sent(self):
        """MLflow's runs by name."""
        from pretune.tracking import connect

        client, experiment = connect(self.root, self.state)
        return {run.info.run_name: run for run in client.search_runs([experiment])}

    @property
    def client(self):
        """MLflow's client for this workspace."""
        from pretune.tracking import connect

        return connect(self.root, self.state)[0]


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """An MLflow database without runs."""
    from sqlalchemy import create_engine

    from pretune.tracking import prepare_environment

    prepare_environment()
    from mlflow.store.db.utils import _initialize_tables

    path = tmp_path_factory.mktemp("database") / "mlflow.db"
    engine = create_engine(f"sqlite:///{path}")
    _initialize_tables(engine)
    engine.dispose()
    return path


@pytest.fixture
def tracked(tmp_path, empty_database):
    """A workspace with an empty MLflow database."""
    root = tmp_path / "tracked"
    root.mkdir()
    shutil.copy(empty_database, root / "mlflow.db")
    return Tracked(root)
