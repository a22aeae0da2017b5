from __future__ import annotations

import pytest

pytestmark = pytest.mark.slow
NOWHERE = "http://127.0.0.1:9"  # the port of the discard service: nobody answers


def test_unreachable_prefect_api_is_done_without(copy):
    """With a Prefect API that does not answer, the run warns once, runs the same stages and leaves the same record."""
    copy.set(evaluate__bootstrap_samples=101)
    printed = copy.pretune("run", PREFECT_API_URL=f"{NOWHERE}/api")
    assert printed.count("warning:") == 1
    assert "Prefect API does not answer" in printed
    assert "Traceback" not in printed
    assert "majority baseline" in printed
    parent = copy.parents()[-1]
    assert parent.info.status == "FINISHED"
    assert set(copy.children(parent)) == set(copy.stages())
    assert copy.dvc_is_clean()


@pytest.mark.parametrize("way", ["plain", "tasks"])
def test_unreachable_tracking_server_stops_nothing(way, copy):
    """Without a tracking server the stages succeed with a warning; the next run sends what was recorded meanwhile."""
    before = {run.info.run_id for run in copy.records()}
    copy.set(evaluate__bootstrap_samples=101)
    away = {"MLFLOW_TRACKING_URI": NOWHERE}
    printed = copy.run_pipeline("plain", **away) if way == "plain" else copy.run("-m", "tasks", "evaluate", **away)
    assert "warning:" in printed
    assert NOWHERE in printed
    assert "Traceback" not in printed
    assert copy.dvc_is_clean()
    copy.wait_for_end()
    assert copy.journals()
    assert {run.info.run_id for run in copy.records()} == before

    copy.plain_run()
    copy.wait_for_end()
    assert copy.journals() == []
    new = [run for run in copy.records() if run.info.run_id not in before]
    assert {run.info.status for run in new} == {"FINISHED"}
    (evaluate,) = [run for run in new if run.data.tags.get("pretune.status") == "executed"]
    assert evaluate.data.params["evaluate.bootstrap_samples"] == "101"
    assert "gain.scratch" in evaluate.data.metrics
    again = copy.children(copy.parents()[-1])["evaluate"]
    assert again.data.tags["pretune.source_run"] == evaluate.info.run_id
    assert again.data.metrics == evaluate.data.metrics
    if way == "plain":
        parent = copy.parents()[-2]
        assert set(copy.children(parent)) == set(copy.stages())
        assert evaluate.data.tags["mlflow.parentRunId"] == parent.info.run_id
