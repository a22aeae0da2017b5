from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
from pathlib import Path

import pytest

from pretune.errors import WorkspaceError
from pretune.release.runs import Runs
from pretune.tracking import client
from pretune.tracking.records import Records

pytestmark = pytest.mark.slow  # imports MLflow


def test_everything_that_was_recorded_arrives(tracked):
    """Params, tags, metrics over steps, inputs with DVC's digest, outputs, texts and the status."""
    run = tracked.run("pretrain", **{"git.commit": "abc"})
    run.params({"seed": 0, "pretrain.learning_rate": 5e-3})
    digest = "0123456789abcdef0123456789abcdef.dir"
    run.input("data/prepared/corpus", digest)
    for step in (10, 20, 30):
        run.metrics({"loss": 1 / step}, step)
    run.output("models/pretrained", "fedc.dir")
    run.text("changes.patch", "+ ünï\n")
    run.end("FINISHED")
    tracked.send()
    sent = tracked.sent()["pretrain"]
    assert sent.info.status == "FINISHED"
    assert sent.data.params == {"seed": "0", "pretrain.learning_rate": "0.005"}
    assert sent.data.tags["git.commit"] == "abc"
    assert sent.data.tags["dvc.in.data/prepared/corpus"] == digest
    assert sent.data.tags["dvc.out.models/pretrained"] == "fedc.dir"
    (data,) = sent.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("data/prepared/corpus", digest)
    assert json.loads(data.dataset.source) == {"path": "data/prepared/corpus", "md5": digest}
    history = tracked.client.get_metric_history(sent.info.run_id, "loss")
    assert [(m.step, m.value) for m in history] == [(10, 0.1), (20, 0.05), (30, 1 / 30)]
    patch = tracked.client.download_artifacts(sent.info.run_id, "changes.patch")
    assert Path(patch).read_text(encoding="utf-8") == "+ ünï\n"
    assert (tracked.root / "mlartifacts").is_dir()


def test_a_sent_journal_is_gone(tracked):
    """Nothing is sent twice: neither the journal nor its bookmark stays."""
    tracked.run().end("FINISHED")
    tracked.send()
    assert not list((tracked.state / "journal").iterdir())
    tracked.send()
    assert len(tracked.sent()) == 1


def test_a_run_is_sent_while_it_happens(tracked):
    """Parts written later are added to the same run, each event once."""
    run = tracked.run("pretrain")
    run.metrics({"loss": 3.0}, 1)
    tracked.send()
    assert tracked.sent()["pretrain"].info.status == "RUNNING"
    run.metrics({"loss": 2.0}, 2)
    tracked.send()
    run.end("FAILED")
    tracked.send()
    sent = tracked.sent()["pretrain"]
    assert sent.info.status == "FAILED"
    assert [m.value for m in tracked.client.get_metric_history(sent.info.run_id, "loss")] == [3.0, 2.0]
    assert len(tracked.sent()) == 1


def test_a_stage_run_hangs_under_its_pipeline_run(tracked):
    """MLflow shows stages as children, also where the parent was sent earlier."""
    parent = tracked.run("pipeline")
    tracked.run("ingest", parent=parent.id).end("FINISHED")
    tracked.send()
    parent.end("FINISHED")
    late = tracked.run("prepare", parent=parent.id)
    late.end("FINISHED")
    tracked.send()
    sent = tracked.sent()
    for name in ("ingest", "prepare"):
        assert sent[name].data.tags["mlflow.parentRunId"] == sent["pipeline"].info.run_id
    assert "mlflow.parentRunId" not in sent["pipeline"].data.tags


def test_a_preset_run_id_is_left_alone(tracked):
    """MLFLOW_RUN_ID of somebody else's run neither catches our events nor changes that run."""
    opened, experiment = client.connect(tracked.root, tracked.state)
    foreign = opened.create_run(experiment, run_name="foreign").info.run_id
    os.environ |= {"MLFLOW_RUN_ID": foreign, "MLFLOW_PARENT_RUN_ID": foreign}
    run = tracked.run("ours")
    run.metrics({"loss": 1.0})
    run.end("FINISHED")
    tracked.send()
    sent = tracked.sent()
    assert sent["ours"].data.metrics == {"loss": 1.0}
    assert (sent["foreign"].data.metrics, sent["foreign"].info.status) == ({}, "RUNNING")
    assert "mlflow.parentRunId" not in sent["ours"].data.tags


def test_more_metrics_than_one_request_takes_arrive(tracked):
    """Long histories are sent in batches, with numbers that are none."""
    run = tracked.run("pretrain")
    for step in range(1201):
        run.metrics({"loss": math.nan if step == 5 else float(step)}, step)
    run.end("FINISHED")
    tracked.send()
    history = tracked.client.get_metric_history(tracked.sent()["pretrain"].info.run_id, "loss")
    assert [m.step for m in history] == list(range(1201))
    assert math.isnan(history[5].value)


def test_a_cached_stage_gets_the_metrics_of_the_run_that_made_it(tracked):
    """The latest finished run that executed the stage with the same key is the source."""
    for value, status in ((0.5, "FINISHED"), (0.6, "FINISHED"), (0.9, "FAILED")):
        made = tracked.stage("evaluate", "key")
        made.metrics({"accuracy": value}, 3)
        made.end(status)
    other = tracked.stage("evaluate", "other key")
    other.metrics({"accuracy": 0.1})
    other.end("FINISHED")
    cached = tracked.stage("again", "key", status="cached")
    cached.copy_of("key")
    cached.end("FINISHED")
    tracked.send()
    again = tracked.sent()["again"]
    source = tracked.client.get_run(again.data.tags["pretune.source_run"])
    assert again.data.metrics == source.data.metrics == {"accuracy": 0.6}
    (point,) = tracked.client.get_metric_history(again.info.run_id, "accuracy")
    assert point.step == 3


def test_a_cached_stage_whose_maker_is_unknown_says_so(tracked):
    """A result that came from elsewhere (`dvc pull`) has no source run, and that is no error."""
    cached = tracked.stage("again", "key", status="cached")
    cached.copy_of("key")
    cached.end("FINISHED")
    tracked.send()
    assert tracked.sent()["again"].data.tags["pretune.source_run"] == "unknown"


def test_records_read_back_what_was_sent(tracked):
    """A run has its params, inputs and outputs by path, and its texts; one that was found in the cache is no maker."""
    run = tracked.stage("prepare", "key")
    run.params({"seed": 1})
    run.metrics({"rows": 3, "share": math.nan})
    run.input("data/raw", "aa.dir")
    run.output("data/prepared", "bb.dir")
    run.text("changes.patch", "+ ünï\n")
    run.end("FINISHED")
    tracked.stage("prepare", "key", status="cached").end("FINISHED")
    tracked.send()
    runs = Runs(tracked.root, tracked.state, "tests")
    (found,) = runs.records.newest("prepare", 2)
    assert (found.name, found.status, found.params) == ("prepare", "FINISHED", {"seed": "1"})
    assert (found.inputs, found.outputs) == ({"data/raw": "aa.dir"}, {"data/prepared": "bb.dir"})
    assert found.metrics == pytest.approx({"rows": 3, "share": math.nan}, nan_ok=True)
    assert runs.artifact(found, "changes.patch") == "+ ünï\n"


def test_records_without_a_server_is_an_error_with_a_next_step(tracked):
    """`pretune trace` against a server that is down: a message, no traceback."""
    os.environ |= {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    with pytest.raises(WorkspaceError, match=r"127\.0\.0\.1:9 does not answer"):
        Records(tracked.root, tracked.state)


def test_one_journal_that_mlflow_refuses_does_not_hold_up_the_others(tracked):
    """A path with characters that MLflow takes in no tag is nobody's reason to lose later records."""
    first = tracked.run("first")
    first.input("mine (1).csv", "aa")
    first.end("FINISHED")
    tracked.run("second").end("FINISHED")
    with contextlib.suppress(Exception):  # it may be told, but after the others were sent
        tracked.send()
    assert "second" in tracked.sent()


def test_two_workspaces_in_one_process_keep_their_own_records(tracked, tmp_path, empty_database):
    """Connecting to one database does not redirect the next workspace to it."""
    other = type(tracked)(tmp_path / "other")
    other.root.mkdir()
    shutil.copy(empty_database, other.root / "mlflow.db")
    for workspace, name in ((tracked, "here"), (other, "there")):
        workspace.run(name).end("FINISHED")
        workspace.send()
    assert set(tracked.sent()) == {"here"}
    assert set(other.sent()) == {"there"}
