from __future__ import annotations

import json

import pytest

from pretune.lineage import experiments

pytestmark = pytest.mark.slow


def own_files(clone):
    """What an experiment elsewhere must not change: the files of the workspace, git's index and HEAD."""
    texts = [(clone.root / name).read_bytes() for name in ("params.yaml", "dvc.yaml")]
    index = clone.git("ls-files", "--stage"), clone.git("status", "--porcelain")
    return texts, clone.hashes(), index, (clone.root / ".git" / "HEAD").read_bytes(), clone.git("rev-parse", "HEAD")


def shown(clone):
    """{name: (params, metrics)} of the experiments on top of HEAD, as `dvc exp show` has them."""
    errors = clone.root.parent / "stderr.txt"
    table = json.loads(clone.run("-m", "dvc", "exp", "show", "--json", errors=errors))
    head = clone.git("rev-parse", "HEAD").strip()
    (commit,) = [row for row in table if row["rev"] == head]
    rows = [experiment["revs"][0] for experiment in commit["experiments"] or []]
    return {
        row["name"]: (
            row["data"]["params"]["params.yaml"]["data"],
            row["data"]["metrics"]["reports/metrics.json"]["data"],
        )
        for row in rows
    }


@pytest.fixture
def committed(copy):
    """A finished clone whose dvc.lock is committed."""
    copy.git("commit", "--all", "--quiet", "--message", "dvc.lock")
    return copy


def test_a_kept_result_is_an_experiment_of_dvc(committed):
    """Files, index and HEAD stay as they are; DVC shows params and metrics, applies it and makes a branch of it."""
    paths = [committed.root / name for name in ("params.yaml", "dvc.lock")]
    committed.set(evaluate__bootstrap_samples=250)
    committed.plain_run()
    texts = [path.read_text(encoding="utf-8") for path in paths]
    metrics = json.loads((committed.root / "reports" / "metrics.json").read_text(encoding="utf-8"))
    committed.git("checkout", "--quiet", "--", ".")
    committed.run("-m", "dvc", "checkout")
    before = own_files(committed)

    experiments.keep(committed.root, "wide", *texts)

    assert own_files(committed) == before
    assert experiments.listed(committed.root) == ["wide"]
    params, results = shown(committed)["wide"]
    assert params["evaluate"]["bootstrap_samples"] == 250
    assert results == metrics
    committed.run("-m", "dvc", "exp", "branch", "wide", "wide-branch")
    assert committed.git("show", "wide-branch:params.yaml") == texts[0]
    committed.run("-m", "dvc", "exp", "apply", "wide")
    assert [path.read_text(encoding="utf-8") for path in paths] == texts
    assert committed.dvc_is_clean()


def test_experiments_run_by_hand_are_recorded_where_they_were_started(committed):
    """`dvc exp run`, with --temp, --queue or none: DVC shows each; its stages are in the workspace's MLflow.

    Those in folders of their own leave the workspace as it was, and their records have the commit and the change.
    """
    rate = "finetune.learning_rate=2e-3"
    temporary, here = "evaluate.bootstrap_samples=103", "evaluate.bootstrap_samples=104"
    before, known = own_files(committed), {run.info.run_id for run in committed.records()}
    committed.run("-m", "dvc", "exp", "run", "--queue", "--name", "queued", "--set-param", rate)
    committed.run("-m", "dvc", "exp", "run", "--run-all")
    committed.run("-m", "dvc", "exp", "run", "--temp", "--name", "temporary", "--set-param", temporary)
    committed.wait_for_end()
    assert own_files(committed) == before
    committed.run("-m", "dvc", "exp", "run", "--name", "here", "--set-param", here)

    params = {name: found for name, (found, _) in shown(committed).items()}
    assert params["queued"]["finetune"]["learning_rate"] == 2e-3
    others = {name: found["evaluate"]["bootstrap_samples"] for name, found in params.items() if name != "queued"}
    assert others == {"temporary": 103, "here": 104}
    runs = [run for run in committed.records() if run.info.run_id not in known]
    samples = [r.data.params["evaluate.bootstrap_samples"] for r in runs if r.info.run_name == "evaluate"]
    assert sorted(samples) == ["100", "103", "104"]
    assert {run.info.status for run in runs} == {"FINISHED"}
    head = committed.git("rev-parse", "HEAD").strip()
    client, _ = committed.client()
    for run in runs:
        assert (run.data.tags["git.commit"], run.data.tags["git.dirty"]) == (head, "true")
        patch = client.download_artifacts(run.info.run_id, "changes.patch", str(committed.root.parent))
        assert "+++ b/params.yaml" in (committed.root.parent / patch).read_text(encoding="utf-8")
    (finetune,) = [run for run in runs if run.info.run_name == "finetune"]
    assert finetune.data.params["finetune.learning_rate"] == "0.002"
    assert len(finetune.outputs.model_outputs) == 1
    assert committed.journals() == []
