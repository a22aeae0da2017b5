"""What people see in MLflow: descriptions with links, the experiment's kind, and records that it refuses."""

from __future__ import annotations

import pytest

from pretune.evaluation.metrics.headline import headline
from pretune.tracking.client import connect, page
from pretune.tracking.journal import ARTIFACT, NOTE
from pretune.tracking.sender import Sender


@pytest.mark.slow
def test_a_description_links_to_the_artifacts_of_its_run(tracked):
    """A link by name becomes the address of MLflow's page; other text stays."""
    run = tracked.run("seed=1")
    run.text("report.html", "<p>")
    run.tags({NOTE: f"| a |\n[report.html]({ARTIFACT}report.html) · [x](y)"})
    run.end("FINISHED")
    tracked.send()
    sent = tracked.sent()["seed=1"]
    address = f"#/experiments/{sent.info.experiment_id}/runs/{sent.info.run_id}/artifacts/report.html"
    assert sent.data.tags[NOTE] == f"| a |\n[report.html]({address}?workflowType=machine_learning) · [x](y)"


@pytest.mark.slow
def test_the_experiment_is_one_of_training_models(tracked):
    """A new one and one that was made before: MLflow shows runs, with the headline first, not GenAI pages."""
    client, experiment = connect(tracked.root, tracked.state)
    assert client.get_experiment(experiment).tags["mlflow.experimentKind"] == "custom_model_development"
    client.delete_experiment_tag(experiment, "mlflow.experimentKind")
    connect(tracked.root, tracked.state)
    assert client.get_experiment(experiment).tags["mlflow.experimentKind"] == "custom_model_development"
    assert page("http://127.0.0.1:5000", experiment).startswith(
        f"http://127.0.0.1:5000/#/experiments/{experiment}/runs?"
    )


@pytest.mark.slow
def test_a_refused_record_is_kept_and_reported(tracked):
    """MLflow changes no parameter: the others arrive, this one stays in the workspace, and each run says so."""
    refused, taken = tracked.run("refused"), tracked.run("taken")
    sender = Sender(tracked.root, tracked.state).start()
    refused.params({"a": 1})
    refused.params({"a": 2})
    for run in (refused, taken):
        run.end("FINISHED")
    warning = sender.close([refused, taken])
    sender._process.wait()
    assert "MLflow refuses 1 runs" in warning
    assert [path.stem for path in (tracked.state / "journal").glob("*.refused")] == [refused.id]
    assert "taken" in tracked.sent()
    again = Sender(tracked.root, tracked.state).start()
    again._process.wait()
    assert "MLflow refuses 1 runs" in again.close([])


@pytest.mark.parametrize("metric", ["accuracy", "rmse"])
def test_the_headline_has_one_name_whatever_the_metric(metric):
    """Both models and the paired gain; nothing where nothing was evaluated."""
    results = {
        "finetuned": {metric: {"value": 0.5, "low": 0.4, "high": 0.6}, "other": {"value": 9}},
        "scratch": {metric: {"value": 0.25}},
        "gain": {"scratch": {"value": 0.25}},
    }
    assert headline(results) == {"headline/finetuned": 0.5, "headline/scratch": 0.25, "headline/gain": 0.25}
    assert headline({"finetuned": {metric: {"value": 0.5}}}) == {"headline/finetuned": 0.5}
    assert headline({}) == {}
