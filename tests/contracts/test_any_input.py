"""Whatever a file holds: rows that are accounted for, or an error that names it; no crash, no hang.

`make fuzz` runs the same properties for ten minutes, with other examples each time.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretune.config.data import IngestParams
from pretune.config.files import read_yaml
from pretune.data.ingest.columns import ColumnMapping
from pretune.data.ingest.sources import read
from pretune.data.ingest.values import BadRowError
from pretune.errors import PretuneError

SPEC = importlib.util.spec_from_file_location("seeds", Path(__file__).parent / "seeds.py")
seeds = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(seeds)

pytestmark = pytest.mark.filterwarnings("ignore")  # libraries warn of what is broken


def few(examples):
    """That many examples here, and under `make fuzz` as many as its profile says."""
    if settings.get_current_profile_name() != "pretune":
        return settings()
    return settings(max_examples=examples)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder in which each example replaces the file of the one before."""
    return tmp_path_factory.mktemp("any")


@pytest.fixture(scope="module")
def ingest(params_file):
    """The section `ingest`, as it is, with changes."""
    section = read_yaml(params_file)["ingest"]
    return lambda **changes: IngestParams.model_validate(section | {"columns": {}, "labels": {}} | changes)


@given(st.data())
@few(250)
def test_any_file_gives_rows_or_an_error_that_names_it(folder, ingest, ends, data):
    """Each record becomes a row, or is bad with a reason; each origin is in the file."""
    name = data.draw(st.sampled_from(sorted(seeds.data())))
    content = data.draw(seeds.mutated(seeds.data()[name]))
    (folder / name).write_bytes(content)
    place = f"sqlite:///{name}#rows" if name == "a.db" else name
    params = ingest(source=place, format="idx" if name.endswith("ubyte") else "auto")
    mapping = ColumnMapping(params)
    with ends():
        try:
            for _, record in read.read(params, lambda path: folder / path):
                assert record.origin.startswith("rows:" if name == "a.db" else name), record.origin
                assert with_reason(mapping, record)
        except PretuneError as error:
            assert name in str(error), error  # noqa: PT017 - most examples raise nothing


def with_reason(mapping, record):
    """The row of a record, or why there is none."""
    try:
        return mapping.row(record)
    except BadRowError as error:
        return error.reason
