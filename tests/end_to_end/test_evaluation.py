"""After a pipeline run: compare, promote, predict, serve and reproduce, as a user does."""

from __future__ import annotations

import contextlib
import json
import socket
import urllib.request

import pytest

pytestmark = pytest.mark.slow


def test_two_runs_are_compared_row_by_row(copy):
    """Settings that differ, metrics on the rows that both have tested, and what it cost; also as a page and Markdown.

    A side is a revision, a run, or `.`, what dvc.lock of the working tree names.
    """
    copy.git("add", "--force", "dvc.lock")
    copy.git("commit", "--quiet", "--message", "result")
    copy.set(finetune__epochs=1)
    copy.plain_run("evaluate")
    newest = [run for run in copy.records() if run.info.run_name == "evaluate"][-1].info.run_id
    found = copy.report("compare", "HEAD", newest)
    assert found["rows"] > 0
    assert {row[""] for row in found["tables"]["settings that differ"]} == {"finetune.epochs"}
    gain = found["gains"][newest]["accuracy"]
    assert gain["low"] <= gain["value"] <= gain["high"]
    page = (copy.root / "reports" / "compare.html").read_text(encoding="utf-8")
    assert "finetune.epochs" in page
    report = copy.pretune("compare", "HEAD", ".", "--markdown")
    assert "\n|  | HEAD | . |\n|---|---|---|\n| finetune.epochs | 2 | 1 |\n" in report.replace(" --- ", "---")
    assert newest[:8] in report
    assert "no evaluation of" in copy.pretune("compare", "nothing", code=4)


def test_a_model_is_promoted_served_and_rolled_back(copy):
    """The gate decides about @champion; whatever it says, @challenger answers; there is nothing to roll back to."""
    copy.set(gate__baselines=False)
    summary = copy.report("run", "--promote")
    assert "is @champion now" in summary["promotion"], summary
    (copy.root / "rows.csv").write_text('id,text\n7,"the wave, the tide"\n', encoding="utf-8")
    assert "models/finetuned" in copy.pretune("trace", "@champion")
    answer = copy.pretune("predict", "@champion", "rows.csv", "--keep", "id").strip().splitlines()[-1]
    labels = json.loads((copy.root / "data/prepared/labelled/labels.json").read_text(encoding="utf-8"))
    assert json.loads(answer)["id"] == "7"
    assert json.loads(answer)["label"] in labels
    assert "replaced none" in copy.pretune("rollback", code=4)
    copy.set(gate__size=0.001)
    assert "FAILED  size" in copy.pretune("promote", code=12)


def test_a_pipeline_run_is_reproduced_to_the_bit(copy):
    """All its stages from the raw data on: with uncommitted changes, a new file, a value given for that run only."""
    with (copy.root / "tasks" / "evaluate.py").open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    (copy.root / "notes.md").write_text("not committed\n", encoding="utf-8")
    outcomes = copy.plain_run("--set", "evaluate.slices=[label]")
    assert outcomes == dict.fromkeys(copy.stages(), "skipped") | {"evaluate": "ran"}
    run = copy.parents()[-1].info.run_id
    copy.git("checkout", "--quiet", "tasks/evaluate.py")
    found = copy.report("reproduce", run)
    assert found["verdict"] == "bitwise", found
    assert {each["path"] for each in found["outputs"]} == {out for stage in copy.stages() for out in copy.outs(stage)}
    client, _ = copy.client()
    assert client.get_run(run).data.tags["pretune.reproduced.verdict"] == "bitwise"
    assert len(copy.git("worktree", "list").splitlines()) == 1


def test_a_stage_that_comes_out_otherwise_is_called_different(copy):
    """A stage alone, with its data from the cache: other bytes and a loss that is not near are told, with code 12.

    What has come out the same is called so.
    """
    client, _ = copy.client()
    run = copy.children(copy.parents()[0])["finetune"]
    loss = run.data.metrics["train_loss"]
    client.set_tag(run.info.run_id, "dvc.out.models/finetuned", "0" * 32 + ".dir")  # as if it had been made elsewhere
    client.log_metric(run.info.run_id, "train_loss", 2 * loss)
    printed = copy.alone("-m", "cli.app", "reproduce", run.info.run_id, code=12)
    assert "DIFFERS  finetune  models/finetuned" in printed
    assert "same    finetune  reports/curves/finetune.csv" in printed
    assert f"finetune: loss {2 * loss:.6g} then, {loss:.6g} now" in printed
    assert client.get_run(run.info.run_id).data.tags["pretune.reproduced.verdict"] == "different"


def test_mlflow_serves_the_model(copy):
    """`mlflow models serve` answers over HTTP as `pretune predict` does."""
    (model,) = copy.children(copy.parents()[0])["finetune"].outputs.model_outputs
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = copy.start(
        "-m", "mlflow", "models", "serve", "--model-uri", f"models:/{model.model_id}", "--env-manager", "local",
        "--host", "127.0.0.1", "--port", str(port), MLFLOW_TRACKING_URI=f"sqlite:///{copy.root / 'mlflow.db'}",
    )  # fmt: skip

    def answers():
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=2):
            return True
        return False

    try:
        copy.wait(answers, "the server", process=server)
        request = {"dataframe_records": [{"text": "the wave and the tide"}, {"text": "a hill"}]}
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations",
            json.dumps(request).encode(), {"Content-Type": "application/json"},
        )  # fmt: skip
        with urllib.request.urlopen(request, timeout=60) as response:
            served = json.loads(response.read())["predictions"]
        output = copy.pretune("predict", "models/finetuned", "--text", "the wave and the tide", "--text", "a hill")
        expected = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    finally:
        server.terminate()
        server.communicate(timeout=60)
    assert [row["label"] for row in served] == [row["label"] for row in expected]
    assert [row["score"] for row in served] == pytest.approx([row["score"] for row in expected], abs=1e-5)


def test_label_efficiency_is_one_setting(copy):
    """With a share, its stage and evaluate run, all else is fresh; MLflow and the summary have what was found."""
    others = dict.fromkeys(set(copy.stages()) - {"label_efficiency", "evaluate"}, "skipped")
    copy.set(label_efficiency__shares=[0.5, 1])
    summary = copy.report("run", "--no-prefect")
    ran = {"label_efficiency": "ran", "evaluate": "ran"}
    assert {stage: facts["outcome"] for stage, facts in summary["stages"].items()} == others | ran
    found = summary["results"]["label_efficiency"]
    assert [entry["rows"] for entry in found.values()] == [15, 30]
    children = copy.children(copy.parents()[-1])
    known = children["evaluate"].data.metrics
    assert known["label_efficiency.0.5.finetuned"] == found["0.5"]["finetuned"]["value"]
    assert {"label_efficiency.0.5.gain.low", "label_efficiency.1.over_all"} <= known.keys()
    assert {"finetuned on 0.5.loss", "scratch on 0.5.loss"} <= children["label_efficiency"].data.metrics.keys()
    assert not list((copy.state / "checkpoints").iterdir())
    assert copy.dvc_is_clean()
