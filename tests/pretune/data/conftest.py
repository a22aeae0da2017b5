"""Settings of `ingest` and `prepare` with a few of them changed, and a snapshot of rows."""

from __future__ import annotations

import pytest

from pretune.config.data import IngestParams, PrepareParams
from pretune.config.files import read_yaml
from pretune.data import rows


@pytest.fixture(scope="session")
def ingest_params(params_file):
    """A function from changes to the section `ingest`; those of `clean` in a mapping of their own."""
    section = read_yaml(params_file)["ingest"]

    def changed(*, clean=None, **changes):
        return IngestParams.model_validate(section | changes | {"clean": section["clean"] | (clean or {})})

    return changed


@pytest.fixture(scope="session")
def prepare_params(params_file):
    """A function from changes to the section `prepare`; all rows are used unless they say so."""
    section = read_yaml(params_file)["prepare"] | {"train_rows": None, "validation_rows": None, "test_rows": None}
    return lambda **changes: PrepareParams.model_validate(section | changes)


@pytest.fixture(scope="session")
def snapshot(tmp_path_factory):
    """A function that writes rows as `ingest` does, each with an origin, and returns their file."""

    def write(found):
        path = tmp_path_factory.mktemp("snapshot") / "rows.parquet"
        rows.write(path, [{"origin": f"made:{number}"} | row for number, row in enumerate(found)])
        return path

    return write
