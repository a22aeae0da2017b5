from __future__ import annotations

import pytest

pytestmark = pytest.mark.slow
STAGES = {"ingest", "prepare", "pretrain", "finetune", "scratch", "label_efficiency", "evaluate"}


def test_flow_leaves_dvc_status_clean(finished):
    """After the first `pretune run` every stage is in dvc.lock and `dvc status` finds nothing to do."""
    assert set(finished.locked()) == STAGES
    assert finished.dvc_is_clean()


@pytest.mark.parametrize("way", ["dvc", "tasks"])
def test_each_way_to_run_leaves_the_same_bytes(way, finished, workspace):
    """In fresh clones each leaves the same dvc.lock and outputs as the flow, byte for byte, one record per stage."""
    workspace.run_pipeline(way)
    assert workspace.hashes() == finished.hashes()
    assert workspace.dvc_is_clean()
    assert workspace.leftovers() == []
    records = workspace.records()
    assert sorted(run.info.run_name for run in records) == sorted(STAGES)
    assert {run.info.status for run in records} == {"FINISHED"}
    assert all("mlflow.parentRunId" not in run.data.tags for run in records)


@pytest.mark.parametrize("way", ["flow", "dvc", "tasks"])
def test_preset_mlflow_run_id_corrupts_nothing(way, copy):
    """A run id and an experiment id in the caller's environment reach no run: the old ones stay as they were."""
    before = {run.info.run_id: run.to_dictionary() for run in copy.records()}
    victim = copy.parents()[0].info.run_id
    copy.set(evaluate__bootstrap_samples=101)
    env = {"MLFLOW_RUN_ID": victim, "MLFLOW_PARENT_RUN_ID": victim, "MLFLOW_EXPERIMENT_ID": "0"}
    if way == "tasks":
        copy.run("-m", "tasks", "evaluate", **env)
    else:
        copy.run_pipeline(way, **env)

    records = {run.info.run_id: run for run in copy.records()}
    assert {key: records[key].to_dictionary() for key in before} == before
    new = [run for key, run in records.items() if key not in before]
    assert len(new) == (8 if way == "flow" else 1)
    evaluate = next(run for run in new if run.info.run_name == "evaluate")
    assert evaluate.data.params["evaluate.bootstrap_samples"] == "101"
    assert evaluate.data.tags.get("mlflow.parentRunId") != victim
    assert "finetuned.accuracy" in evaluate.data.metrics
    assert copy.dvc_is_clean()
