from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.slow


def history(client, run):
    """{metric: [(step, value), …]} of a run."""
    return {
        key: sorted((m.step, m.value) for m in client.get_metric_history(run.info.run_id, key))
        for key in run.data.metrics
    }


def test_first_run_has_one_parent_with_a_child_per_stage(finished):
    """Seven runs in all: one parent, and each stage once under it, though two branches ran in parallel."""
    (parent,) = finished.parents()
    children = finished.children(parent)
    assert set(children) == set(finished.stages())
    assert len(finished.records()) == 1 + len(children), "a phantom run"
    assert {run.info.status for run in [parent, *children.values()]} == {"FINISHED"}
    assert {run.data.tags["pretune.status"] for run in children.values()} == {"executed"}


@pytest.mark.parametrize("options", [[], ["--no-prefect"]], ids=["prefect", "plain"])
def test_second_run_executes_nothing_and_has_a_full_record(options, copy):
    """A run with nothing to do skips every stage, says so as JSON, and its children carry all that the first's do."""
    first = copy.children(copy.parents()[0])
    before = copy.hashes()
    summary = copy.report("run", *options)
    assert {stage: facts["outcome"] for stage, facts in summary["stages"].items()} == dict.fromkeys(first, "skipped")
    assert summary["warning"] == ""
    assert summary["results"] == json.loads((copy.root / "reports" / "metrics.json").read_text(encoding="utf-8"))
    assert copy.hashes() == before

    client, _ = copy.client()
    old_parent, parent = copy.parents()
    again = copy.children(parent)
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics == old_parent.data.metrics != {}
    assert len(copy.records()) == 16
    assert set(again) == set(first)
    for stage, run in again.items():
        source = first[stage]
        assert run.info.status == "FINISHED"
        assert run.data.tags["pretune.status"] == "cached"
        assert run.data.tags["pretune.source_run"] == source.info.run_id
        assert run.data.params == source.data.params
        assert run.data.metrics == source.data.metrics != {}
        assert history(client, run) == history(client, source)
        assert {d.dataset.digest for d in run.inputs.dataset_inputs} == {
            d.dataset.digest for d in source.inputs.dataset_inputs
        }
        assert [m.model_id for m in (run.outputs.model_outputs if run.outputs else [])] == [
            m.model_id for m in (source.outputs.model_outputs if source.outputs else [])
        ]


def test_source_of_a_cached_stage_is_the_run_that_executed_it(copy):
    """A third run points at the first one, not at the second, which executed nothing; so does its trace."""
    copy.plain_run()
    copy.plain_run()
    first, _, third = copy.parents()
    made = copy.children(first)
    for stage, run in copy.children(third).items():
        assert run.data.tags["pretune.source_run"] == made[stage].info.run_id
    found = copy.report("trace", copy.children(third)["finetune"].info.run_id)
    assert found["run"] == made["finetune"].info.run_id
