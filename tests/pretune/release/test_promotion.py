"""Promotion with a real registry: records of evaluations, made by hand, and models that are names only."""

from __future__ import annotations

import subprocess
import threading
import time

import numpy as np
import pytest

from pretune.errors import LockedError, NotFoundInRecordsError
from pretune.evaluation.metrics import compute
from pretune.evaluation.metrics.bootstrap import Bootstrap
from pretune.objectives import predictions_io
from pretune.objectives.predictions import Classes
from pretune.objectives.predictions_io import StoredPredictions
from pretune.release import promotion
from pretune.release.registry import CHALLENGER, CHAMPION, _machine
from pretune.release.runs import Runs

pytestmark = pytest.mark.slow  # a real MLflow database
NAME = "tests"
TARGETS = np.arange(80) % 2


def predictions(wrong):
    """The predictions of a classifier with so many mistakes on the same eighty rows."""
    best = np.where(np.arange(80) < wrong, 1 - TARGETS, TARGETS)
    return Classes(["no", "yes"], TARGETS, np.where(np.eye(2)[best] > 0, 0.9, 0.1).astype(np.float32))


@pytest.fixture
def evaluated(tracked):
    """A function that records a model with so many mistakes, and its evaluation; returns the evaluation's run id."""
    from mlflow.entities import LoggedModelOutput

    def record(name, wrong, scratch=""):
        facts = {"git.commit": "c0ffee", "git.dirty": "false"}
        made = tracked.run("finetune", **facts, **{"pretune.status": "executed", "pretune.stage_key": name})
        made.params({"finetune.epochs": wrong, "ingest.source": "mine.csv", "ingest.licence": "CC BY 4.0"})
        made.input("data/mine.csv", f"data-{name}")
        made.output("models/finetuned", f"md5-{name}")
        made.end("FINISHED")
        models = {"finetuned": predictions(wrong), "scratch": predictions(40), "majority": predictions(40)}
        run = tracked.run("evaluate", **facts, **{"pretune.status": "executed", "pretune.stage_key": f"e-{name}"})
        run.params({"evaluate.confidence": 0.95})
        run.input("models/finetuned", f"md5-{name}")
        if scratch:
            run.input("models/scratch", scratch)
        run.output("reports/metrics.json", f"metrics-{name}")
        rows = [f"row {row}" for row in range(80)]
        run.text("evaluation/predictions.json", predictions_io.dumps(StoredPredictions(rows, models)))
        run.text("evaluation/slices.csv", "slice,rows,value,low,high\nlabel yes,40,0.5,0.4,0.6\n")
        run.metrics(compute.evaluate_models(models, Bootstrap(80, 200, 0.95, 0)))
        run.metrics({"latency_p99": 0.01, "model_megabytes": 1.0})
        run.metrics({"forgetting": {"increase": {"value": 0.02, "low": 0.01, "high": 0.03}}})
        run.end("FINISHED")
        tracked.send()
        runs = {run.data.tags["pretune.stage_key"]: run.info for run in all_runs(tracked)}
        client = tracked.client
        model = client.create_logged_model(runs[name].experiment_id, "finetuned", runs[name].run_id)
        client.finalize_logged_model(model.model_id, "READY")
        client.log_outputs(runs[name].run_id, [LoggedModelOutput(model.model_id, 0)])
        return runs[f"e-{name}"].run_id

    return record


def all_runs(tracked):
    """All runs of MLflow."""
    return tracked.client.search_runs([tracked.client.get_experiment_by_name("pretune").experiment_id])


@pytest.fixture
def promoted(tracked, params):
    """A function that promotes a run; `missing` is what the remote lacks."""

    def promote(run=None, missing=(), **options):
        return promotion.promote(opened(tracked), params, run, lambda _: list(missing), **options)

    return promote


def opened(tracked):
    """The records as they are now."""
    return Runs(tracked.root, tracked.state, NAME)


def test_a_model_is_promoted_and_the_reasons_are_kept(tracked, evaluated, promoted):
    """It is challenger and champion; the version and the run have the gate's reasons and a model card."""
    run = evaluated("one", 8)
    verdict = promoted()
    registry = opened(tracked).registry
    version = registry.alias(CHAMPION)
    assert verdict.passed
    assert version == registry.alias(CHALLENGER)
    assert version.tags["gate.passed"] == "true"
    assert "passed  better than scratch" in version.tags["gate.reasons"]
    card = tracked.client.get_model_version(NAME, version.version).description
    for part in (
        "classification on data from `mine.csv`",
        "Licence: CC BY 4.0",
        "| data/mine.csv | data-one |",
        "On 80 test rows; `low` and `high` bound the interval of confidence 0.95.",
        "| accuracy | 0.9 |",
        "| scratch | +0.4 |",
        "- rows with label yes: accuracy 0.5 (0.4 to 0.6)",
        "- training cost +0.020 bits per byte on held-out text (+0.010 to +0.030)",
        "- passed  better than scratch",
        "git checkout c0ffee",
        f"pretune reproduce @{version.version}",
        "| label yes | 40 | 0.5 | 0.4 | 0.6 |",
        "| finetune.epochs | 8 |",
    ):
        assert part in card, part
    assert opened(tracked).artifact(opened(tracked).run(run), "model-card.md") == card


def test_only_a_better_model_replaces_the_champion(tracked, evaluated, promoted):
    """A worse one becomes challenger, with the reason; a better one champion; rollback brings the former back, once."""
    evaluated("one", 20)
    assert promoted().version == "1"
    evaluated("worse", 30)
    verdict = promoted()
    assert not verdict.passed
    assert [check.what for check in verdict.checks if not check.passed] == ["better than the champion"]
    registry = opened(tracked).registry
    assert (registry.alias(CHAMPION).version, registry.alias(CHALLENGER).version) == ("1", "2")
    assert registry.alias(CHALLENGER).tags["gate.passed"] == "false"
    better = evaluated("better", 2)
    assert promoted(better[:10]).former == "1"
    assert registry.alias(CHAMPION).version == "3"
    assert promotion.rollback(registry) == ("3", "1")
    assert registry.alias(CHAMPION).version == "1"
    with pytest.raises(NotFoundInRecordsError, match="replaced none"):
        promotion.rollback(registry)


def test_promoting_the_champion_again_changes_nothing(tracked, evaluated, promoted):
    """The same model is the same version, and stays champion."""
    evaluated("one", 8)
    assert promoted().version == promoted().version == "1"
    assert opened(tracked).registry.alias(CHAMPION).tags["pretune.former_champion"] == ""


def test_a_held_model_meets_whatever_is_champion_by_then(tracked, evaluated, promoted):
    """Held, it is challenger only. When somebody agrees it is compared again: with a champion that came in between."""
    held = evaluated("held", 20)
    verdict = promoted(hold=True)
    registry = opened(tracked).registry
    assert verdict.passed
    assert str(verdict).endswith("is @challenger and waits for approval; the champion stays until then")
    assert (registry.alias(CHAMPION), registry.alias(CHALLENGER).version) == (None, "1")
    evaluated("better", 2)
    assert promoted().version == "2"
    assert not promoted(held).passed
    assert registry.alias(CHAMPION).version == "2"
    assert not promoted(registry.alias(CHAMPION).run_id, hold=True).held, "it is the champion: nothing to agree to"


def test_gaps_in_the_lineage_keep_a_model_back(tracked, evaluated, promoted):
    """What the remote lacks is named."""
    evaluated("one", 8)
    verdict = promoted(missing=["the remote lacks models/finetuned"])
    assert [check.reason for check in verdict.checks if not check.passed] == ["the remote lacks models/finetuned"]
    assert opened(tracked).registry.alias(CHAMPION) is None


def test_a_model_with_gaps_in_its_records_is_kept_back(tracked, evaluated, promoted):
    """Data of an unknown run, a stage without a commit, a patch that leaves a file out: all are reported."""
    facts = {"pretune.status": "executed", "git.commit": "none"}
    run = tracked.run("prepare", **facts, **{"pretune.stage_key": "p"})
    run.input("data/raw", "raw")
    run.output("data/mine.csv", "data-one")
    run.end("FINISHED")
    changed = tracked.run("scratch", **facts | {"git.commit": "c0ffee", "git.dirty": "true", "pretune.stage_key": "s"})
    changed.text("changes.patch", "# left out, larger than 100000 bytes: huge.bin\n")
    changed.output("models/scratch", "md5-scratch")
    changed.end("FINISHED")
    evaluated("one", 8, scratch="md5-scratch")
    (reason,) = [check.reason for check in promoted().checks if not check.passed]
    assert reason.split("; ") == [
        "scratch: its patch does not contain all uncommitted changes",
        "prepare: no commit",
        "prepare: no run that wrote data/raw is on record",
    ]


def test_two_promotions_at_once_do_not_both_win(tracked, evaluated, promoted):
    """Of two equal models one becomes champion; the other finds a lock, or an equal champion."""
    runs = [evaluated(name, 8) for name in ("one", "two")]
    start, ended = threading.Barrier(2), []

    def promote(run):
        start.wait()
        try:
            ended.append(promoted(run).passed)
        except LockedError:
            ended.append(False)

    threads = [threading.Thread(target=promote, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ended) == [False, True]
    assert opened(tracked).registry.alias(CHAMPION) is not None


def test_only_one_promotion_runs_at_a_time(tracked, evaluated, promoted, monkeypatch):
    """The error names the process that does; the lock of a killed process expires."""
    evaluated("one", 8)
    registry = opened(tracked).registry
    with registry.lock(), pytest.raises(LockedError, match=r"process \d+ on "):
        promoted()
    assert registry.alias(CHAMPION) is None
    tracked.client.create_registered_model(f"{NAME}.promotion-under-way")  # left by a killed process
    later = time.time() + 3600
    monkeypatch.setattr("pretune.release.registry.time.time", lambda: later)
    assert promoted().passed


@pytest.mark.parametrize("machine", ["this one", "another"])
def test_the_lock_of_a_process_that_was_killed_here_is_passed_over(tracked, evaluated, promoted, machine):
    """At once; what happens on other machines cannot be seen from here."""
    evaluated("one", 8)
    ended = subprocess.Popen(["true"])
    ended.wait()
    tags = {"holder": f"process {ended.pid} on {machine}", "machine": _machine() if machine == "this one" else machine}
    tracked.client.create_registered_model(f"{NAME}.promotion-under-way", tags)
    if machine == "this one":
        assert promoted().passed
        assert tracked.client.search_registered_models(f"name LIKE '{NAME}.%'") == []
    else:
        with pytest.raises(LockedError, match=f"process {ended.pid} on another"):
            promoted()


def test_an_expired_lock_is_replaced_by_one_process_only(tracked, monkeypatch):
    """Two find the same expired lock: the slower one is locked out, and the lock of the other stays."""
    name = f"{NAME}.promotion-under-way"
    tracked.client.create_registered_model(name, {"holder": "a killed process"})
    quick, slow = opened(tracked).registry, opened(tracked).registry
    seen = [slow._model(name)]  # the slow one has looked, then the quick one replaces the lock
    look = slow._model
    monkeypatch.setattr(slow, "_model", lambda model: seen.pop() if seen else look(model))
    killed = seen[0].creation_timestamp / 1000
    monkeypatch.setattr("pretune.release.registry.time.time", lambda: killed + 601)
    with quick.lock():
        own = quick._model(name)
        with pytest.raises(LockedError, match=r"by process \d+ on "), slow.lock():
            pass
        assert quick._model(name).creation_timestamp == own.creation_timestamp
    assert tracked.client.search_registered_models(f"name LIKE '{NAME}.%'") == []


def test_a_promotion_whose_lock_expired_does_not_release_the_lock_of_another(tracked):
    """At its end it leaves a lock that is not its own."""
    registry, name = opened(tracked).registry, f"{NAME}.promotion-under-way"
    with registry.lock():
        tracked.client.delete_registered_model(name)
        tracked.client.create_registered_model(name, {"holder": "the next"})
    assert registry._model(name).tags == {"holder": "the next"}


def test_an_evaluation_is_found_by_every_name_that_leads_to_it(tracked, evaluated, promoted, project):
    """Its run, the run or id of its model, an alias, a git revision whose dvc.lock has its result."""
    import subprocess

    run = evaluated("one", 8)
    promoted()
    runs = opened(tracked)
    model = runs.newest().model[0]
    trained = runs.newest().stages["finetune"].run_id
    lock = "schema: '2.0'\nstages:\n  evaluate:\n    outs:\n    - path: reports/metrics.json\n      md5: metrics-one\n"
    (project / "dvc.lock").write_text(lock, encoding="utf-8")
    for command in (["add", "dvc.lock"], ["commit", "--quiet", "--message", "result"]):
        subprocess.run(["git", *command], cwd=project, check=True)
    assert runs.registry.client  # of the workspace, before `root` is that of the git repository
    runs.root = project
    for name in (run, run[:8], trained, model, "@champion", "@1", "HEAD"):
        assert runs.evaluation(name).run.run_id == run, name
    assert runs.model("@champion") == runs.model(trained) == runs.model(run) == model
    assert runs.evaluation(run).params["finetune.epochs"] == "8"
    for name in ("HEAD~1", "@nobody", "nothing-of-that-name", "--output=x"):
        with pytest.raises(NotFoundInRecordsError):
            runs.evaluation(name)
