from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
import sys

import pytest

from pretune.lineage.graph import CODE

pytestmark = pytest.mark.slow
PREDICT = """
import json, sys, warnings
warnings.simplefilter("ignore")
import mlflow.pyfunc, pandas
mlflow.set_tracking_uri(sys.argv[1])
for model_id, texts in json.loads(sys.argv[2]).items():
    answer = mlflow.pyfunc.load_model(f"models:/{model_id}").predict(pandas.DataFrame({"text": texts}))
    print(json.dumps(answer.to_dict("list")))
"""


@pytest.fixture(scope="module")
def children(finished):
    """The stage runs of the first run."""
    return finished.children(finished.parents()[0])


def test_children_carry_the_params_that_dvc_lock_has(finished, children):
    """Each stage run has exactly the parameters that dvc.lock records for the stage, flattened."""

    def flat(data, prefix=""):
        for key, value in data.items():
            yield from flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, str(value))]

    for name, entry in finished.locked().items():
        assert children[name].data.params == dict(flat(entry["params"]["params.yaml"])), name


def test_children_carry_inputs_and_outputs_with_dvc_hashes(finished, children):
    """Inputs are data sets whose digest is DVC's md5, outputs are tags: both as dvc.lock has them."""
    for name, entry in finished.locked().items():
        run = children[name]
        data = {dep["path"]: dep["md5"] for dep in entry["deps"] if not dep["path"].startswith(CODE)}
        assert {item.dataset.name: item.dataset.digest for item in run.inputs.dataset_inputs} == data != {}, name
        written = {out["path"]: out["md5"] for out in entry["outs"]}
        tags = run.data.tags
        assert {k.removeprefix("dvc.out."): v for k, v in tags.items() if k.startswith("dvc.out.")} == written, name


def test_children_carry_where_they_come_from(finished, children):
    """Each run names the commit, the Prefect flow run, libraries and hardware; stage keys differ between stages."""
    commit = finished.git("rev-parse", "HEAD").strip()
    parent = finished.parents()[0]
    for run in [parent, *children.values()]:
        tags = run.data.tags
        assert tags["git.commit"] == commit
        assert tags["git.dirty"] == "false"
        assert {"version.torch", "version.dvc", "version.python", "host.processor", "host.cores"} <= set(tags)
        assert tags["prefect.flow_run_id"] == parent.data.tags["prefect.flow_run_id"] != ""
    assert len({run.data.tags["pretune.stage_key"] for run in children.values()}) == 7


def test_a_stage_that_trains_nothing_is_recorded_and_not_started(finished, children):
    """Without shares `label_efficiency` has nothing to do: no process of its own, whose output would be in its log."""
    assert children["label_efficiency"].data.tags["pretune.status"] == "executed"
    assert children["label_efficiency"].info.status == "FINISHED"
    logs = {path.stem for path in (finished.state / "logs").glob("*.log")}
    assert logs & finished.stages().keys() == finished.stages().keys() - {"label_efficiency"}


def test_training_stages_have_metrics_over_steps(finished, children):
    """Loss and learning rate are recorded at several steps of each training stage, the loss as in its curve."""
    client, _ = finished.client()
    for name in ("pretrain", "finetune", "scratch"):
        losses = client.get_metric_history(children[name].info.run_id, "loss")
        rates = client.get_metric_history(children[name].info.run_id, "learning_rate")
        lines = (finished.root / "reports" / "curves" / f"{name}.csv").read_text(encoding="utf-8").splitlines()[1:]
        curve = [(step, loss) for step, loss, *_ in (line.split(",") for line in lines) if loss]
        assert len(curve) > 1
        assert [(str(m.step), f"{m.value:.6f}") for m in losses] == curve, name
        assert [m.step for m in rates] == [m.step for m in losses]


def test_parent_has_the_headline_metrics_and_all_params(finished):
    """The pipeline run has what reports/metrics.json says, and every parameter, so that two runs compare."""
    parent = finished.parents()[0]
    result = json.loads((finished.root / "reports" / "metrics.json").read_text(encoding="utf-8"))
    for model in ("finetuned", "scratch", "majority"):
        assert parent.data.metrics[f"{model}.accuracy"] == result[model]["accuracy"]["value"]
        assert parent.data.metrics[f"{model}.macro_f1.low"] == result[model]["macro_f1"]["low"]
    assert parent.data.metrics["gain.scratch"] == result["gain"]["scratch"]["value"]
    assert {"seed", "model.config.hidden_size", "pretrain.steps", "finetune.learning_rate"} <= set(parent.data.params)


def test_the_data_card_is_an_artifact_in_mlflow_and_in_prefect(finished, children):
    """The same Markdown that lies in reports/data; Prefect's beside the table of results."""
    card = (finished.root / "reports" / "data" / "card.md").read_text(encoding="utf-8")
    client, _ = finished.client()
    kept = client.download_artifacts(children["prepare"].info.run_id, "data-card.md", str(finished.root.parent))
    assert (finished.root.parent / kept).read_text(encoding="utf-8") == card
    with contextlib.closing(sqlite3.connect(finished.state / "prefect.db")) as database:
        artifacts = dict(database.execute("SELECT key, data FROM artifact WHERE type = 'markdown'").fetchall())
    assert json.loads(artifacts["pretune-data-card"]) == card
    assert "finetuned" in json.loads(artifacts["pretune-result"])


def test_changed_tree_is_recorded_with_its_patch(copy):
    """Runs of a dirty tree say so and keep a patch that leads from the commit to the files, new ones included."""
    copy.set(evaluate__bootstrap_samples=123)
    (copy.root / "notes.md").write_text("a new file\n", encoding="utf-8")
    copy.plain_run()
    client, _ = copy.client()
    parent = copy.parents()[-1]
    executed = copy.children(parent)["evaluate"]
    for run in (parent, executed):
        assert run.data.tags["git.dirty"] == "true"
        patch = copy.root.parent / f"{run.info.run_id}.patch"
        source = client.download_artifacts(run.info.run_id, "changes.patch", str(copy.root.parent))
        patch.write_bytes((copy.root.parent / source).read_bytes())
        assert b"dvc.lock" not in patch.read_bytes()
        before = (copy.root / "params.yaml").read_bytes()
        copy.git("stash", "--include-untracked", "--", "params.yaml", "notes.md")
        copy.git("apply", str(patch))
        assert (copy.root / "params.yaml").read_bytes() == before
        assert (copy.root / "notes.md").read_text(encoding="utf-8") == "a new file\n"
        copy.git("stash", "drop")


def test_models_load_and_predict_anywhere(finished, children, tmp_path):
    """Each LoggedModel loads outside the project with pickle refused, and answers as its stage's kind of model does."""
    labels = json.loads((finished.root / "data" / "prepared" / "labelled" / "labels.json").read_text(encoding="utf-8"))
    stages = ("pretrain", "finetune", "scratch")
    examples = {}
    for stage in stages:
        (model,) = children[stage].outputs.model_outputs
        examples[model.model_id] = [
            "the wave and the [MASK]" if stage == "pretrain" else "the wave and the tide",
            "a hill",
        ]
    done = subprocess.run(
        [sys.executable, "-c", PREDICT, f"sqlite:///{finished.root / 'mlflow.db'}", json.dumps(examples)],
        cwd=tmp_path, env=finished.environment(MLFLOW_ALLOW_PICKLE_DESERIALIZATION="false"),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    for stage, answer in zip(stages, answers, strict=True):
        if stage == "pretrain":
            assert "[MASK]" not in answer["text"][0]
            assert answer["text"][0].startswith("the wave")
        else:
            assert set(answer["label"]) <= set(labels)
        assert 0 < answer["score"][0] <= 1
    for stage in ("ingest", "prepare", "evaluate"):
        outputs = children[stage].outputs
        assert not (outputs and outputs.model_outputs)
