from __future__ import annotations

import os
import signal

import pytest

pytestmark = pytest.mark.slow


def own_files(clone):
    """What must not change: parameters, graph, lock, outputs, and what git sees."""
    texts = {name: (clone.root / name).read_bytes() for name in ("params.yaml", "dvc.yaml", "dvc.lock")}
    return texts, clone.hashes(), clone.git("status", "--porcelain")


def test_override_changes_nothing_but_the_record(copy):
    """`--set` leaves params.yaml, dvc.lock and all outputs as they were; the record has the value that was used."""
    before = own_files(copy)
    others = dict.fromkeys(set(copy.stages()) - {"evaluate"}, "skipped")
    assert copy.plain_run("--set", "evaluate.bootstrap_samples=250") == others | {"evaluate": "ran"}
    assert own_files(copy) == before
    assert copy.dvc_is_clean()
    parent = copy.parents()[-1]
    assert parent.data.params["evaluate.bootstrap_samples"] == "250"
    evaluate = copy.children(parent)["evaluate"]
    assert evaluate.data.params["evaluate.bootstrap_samples"] == "250"
    assert evaluate.data.tags["pretune.status"] == "executed"

    assert copy.plain_run("--set", "evaluate.bootstrap_samples=250") == others | {"evaluate": "restored"}
    assert own_files(copy) == before

    copy.set(evaluate__bootstrap_samples=250)
    assert copy.plain_run() == others | {"evaluate": "restored"}
    assert copy.dvc_is_clean()
    restored = copy.children(copy.parents()[-1])["evaluate"]
    assert restored.data.tags["pretune.source_run"] == evaluate.info.run_id
    assert restored.data.metrics == evaluate.data.metrics


def test_override_through_prefect(copy):
    """The flow takes overrides, too, and leaves the files as they were; the same values again are restored."""
    before = own_files(copy)
    for outcome in ("ran", "restored"):
        summary = copy.report("run", "--set", "evaluate.confidence=0.9", "--set", "evaluate.bootstrap_samples=150")
        assert summary["stages"]["evaluate"]["outcome"] == outcome
        assert summary["results"]["confidence"] == 0.9
        assert own_files(copy) == before
    params = copy.parents()[-1].data.params
    assert (params["evaluate.confidence"], params["evaluate.bootstrap_samples"]) == ("0.9", "150")


def test_killed_override_changes_nothing(copy):
    """A kill -9 in the middle of `--set`: all files as they were, no orphan, and the next run of either kind works."""
    before = own_files(copy)
    main = copy.start("-m", "cli.app", "run", "--no-prefect", "--set", "pretrain.steps=100000", "pretrain")
    copy.wait(lambda: copy.lock_holder("pretrain"), "pretraining", process=main)
    os.kill(main.pid, signal.SIGKILL)
    main.communicate(timeout=120)
    copy.wait_for_end()
    assert own_files(copy) == before

    assert set(copy.plain_run().values()) == {"skipped"}
    assert copy.plain_run("--set", "evaluate.bootstrap_samples=300")["evaluate"] == "ran"
    assert own_files(copy) == before
    assert "RUNNING" not in {run.info.status for run in copy.records()}
    assert copy.parents()[1].info.status == "KILLED"
    assert copy.parents()[1].data.params["pretrain.steps"] == "100000"


def test_wrong_overrides_are_reported_all_at_once(copy):
    """Unknown keys get the nearest one, other mistakes what is allowed; nothing runs and nothing changes."""
    before = own_files(copy)
    wrong = ["--set", "finetune.learning_rat=1", "--set", "nonsense", "--set", "evaluate.confidence: 1=2"]
    printed = copy.pretune("run", *wrong, code=3)
    assert "did you mean finetune.learning_rate?" in printed
    assert "nonsense" in printed
    assert printed.count("error:") == 3
    assert "Traceback" not in printed
    printed = copy.pretune("run", "--set", "evaluate.confidence=7", "--set", "finetune.epochs=many", code=3)
    assert "evaluate.confidence" in printed
    assert "finetune.epochs" in printed
    assert own_files(copy) == before
