from __future__ import annotations

import json

import pytest

from cli.plan import plan
from pretune.errors import DataError


def test_a_plan_refuses_rows_that_cannot_serve_the_objective(done, capsys):
    """Before anything runs, if the snapshot is up to date; a plan of `ingest` alone does not ask."""
    (done / "data" / "raw").mkdir(parents=True)
    counts = {"columns": {"text": 9}, "left_out": {}, "splits": {}}
    (done / "data" / "raw" / "counts.json").write_text(json.dumps(counts), encoding="utf-8")
    plan(["ingest"], quick=True)
    with pytest.raises(DataError, match="9 of 9 rows have no label"):
        plan(["prepare"], quick=True)
