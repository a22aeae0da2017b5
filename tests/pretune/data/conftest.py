"""Params of `ingest` and `prepare` with changes, and a snapshot of rows."""

from __future__ import annotations

import pytest

from pretune.config.data import IngestParams, PrepareParams
from pretune.config.files import read_yaml
from pretune.data import rows
from pretune.data.ingest.columns import ColumnMapping
from pretune.data.ingest.sources.record import Record
from pretune.data.ingest.values import BadRowError


@pytest.fixture(scope="session")
def ingest_params(params_file):
    """A function that returns the section `ingest` with changes; `clean` holds those of the section `clean`."""
    section = read_yaml(params_file)["ingest"]

    def changed(*, clean=None, **changes):
        return IngestParams.model_validate(section | changes | {"clean": section["clean"] | (clean or {})})

    return changed


@pytest.fixture(scope="session")
def prepare_params(params_file):
    """A function that returns the section `prepare` with changes; all rows are used by default."""
    section = read_yaml(params_file)["prepare"] | {"train_rows": None, "validation_rows": None, "test_rows": None}
    return lambda **changes: PrepareParams.model_validate(section | changes)


@pytest.fixture(scope="session")
def snapshot(tmp_path_factory):
    """A function that writes rows as `ingest` does, each with an origin, and returns their file."""

    def write(snapshot_rows):
        path = tmp_path_factory.mktemp("snapshot") / "rows.parquet"
        rows.write(path, [{"origin": f"made:{number}"} | row for number, row in enumerate(snapshot_rows)])
        return path

    return write


@pytest.fixture(scope="session")
def read(ingest_params):
    """A function that returns the rows of values, without origins, or the reason why one is bad."""

    def rows(*values, split=None, **changes):
        mapping = ColumnMapping(ingest_params(**changes))
        found = []
        for value in values:
            try:
                found.append(mapping.row(Record("f:1", value), split))
                del found[-1]["origin"]
            except BadRowError as error:
                found.append(str(error))
        return found if len(found) > 1 else found[0]

    return rows
