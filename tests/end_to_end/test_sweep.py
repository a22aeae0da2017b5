from __future__ import annotations

import json
import os
import random
import signal

import pytest

pytestmark = pytest.mark.slow
SPACE = ("finetune.learning_rate=log:1e-4..1e-2", "adaptation.method=full,lora,head")
SEARCH = ("--sampler", "tpe", "--trials", "2", "--seeds", "2", "--parallel", "1")


def table(shown):
    """What of a sweep has to be the same in every way to get it: all but ids of runs, times and paths."""
    trials = [
        (trial["number"], trial["state"], trial["point"], trial["estimate"], [s["value"] for s in trial["seeds"]])
        for trial in shown["trials"]
    ]
    return shown["best"], shown["sentences"], shown["test"]["estimate"], trials


@pytest.fixture(scope="session")
def swept(finished, once, copy_of):
    """A finished clone after a sweep, its table in sweep.json."""

    def run(folder):
        clone = copy_of(finished, folder)
        shown = clone.report("sweep", *SPACE, *SEARCH, "--name", "first")
        (folder / "sweep.json").write_text(json.dumps(shown), encoding="utf-8")
        clone.wait_for_end()

    folder = once("swept", run).resolve()
    return type(finished)(folder / "clone"), json.loads((folder / "sweep.json").read_text(encoding="utf-8"))


def runs_of(clone, name):
    """The trials of a sweep in MLflow, after checking that they are children of the sweep's record."""
    parents = [run for run in clone.records() if run.data.tags.get("pretune.kind") == "sweep"]
    (parent,) = [run for run in parents if run.data.tags["pretune.sweep"] == name]
    trials = [run for run in clone.records() if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    return parent, trials


def test_a_sweep_does_no_work_twice_and_is_recorded(swept):
    """Stages that trials share run once; MLflow has a child of the sweep for each run, with values and metrics."""
    clone, shown = swept
    assert [trial["state"] for trial in shown["trials"]] == ["complete"] * 2
    parent, trials = runs_of(clone, "first")
    assert parent.info.status == "FINISHED"
    judged = [run for run in trials if "validation/accuracy" in run.data.metrics]
    assert len({(run.data.tags["pretune.trial"], run.data.tags["pretune.trial_seed"]) for run in judged}) == 4
    assert len({run.data.params["finetune.learning_rate"] for run in judged}) == 2
    stages = [stage for run in trials for stage in clone.children(run).values()]
    trained = [stage.info.run_name for stage in stages if stage.data.tags["pretune.status"] == "executed"]
    assert trained == ["finetune"] * 4
    assert clone.git("status", "--porcelain", "--", "params.yaml", "dvc.yaml") == ""
    assert not list((clone.state / "sweeps" / "first" / "slots").glob("*/dvc.yaml"))


def test_the_same_points_again_compute_nothing(swept, copy_of, tmp_path):
    """A sweep of another name over the same points has the same table, and no stage runs."""
    source, shown = swept
    clone = copy_of(source, tmp_path)
    again = clone.report("sweep", *SPACE, *SEARCH, "--name", "second")
    assert table(again) == table(shown)
    _, trials = runs_of(clone, "second")
    stages = [stage for run in trials for stage in clone.children(run).values()]
    assert {stage.data.tags["pretune.status"] for stage in stages} == {"cached"}

    clone.pretune("sweep", "apply", "second", "--experiment")
    assert clone.git("status", "--porcelain", "--", "params.yaml") == ""
    kept = json.loads(clone.run("-m", "dvc", "exp", "show", "--json", errors=clone.root.parent / "err.txt"))
    assert f"second-{shown['best']}" in json.dumps(kept)

    clone.pretune("sweep", "apply", "second")
    assert clone.plain_run("finetune")["finetune"] == "restored"  # the winner's model, to the byte
    finetune = clone.children(clone.parents()[-1])["finetune"]
    assert finetune.outputs.model_outputs, "MLflow gets the model of a trial with the first run that restores it"


def test_a_killed_sweep_goes_on_to_the_same_table(swept, copy_of, finished, tmp_path):
    """Killed with SIGKILL at a random moment, then resumed: the table of a sweep that was left alone."""
    _, shown = swept
    clone = copy_of(finished, tmp_path)
    arguments = ("-m", "cli.app", "sweep", *SPACE, *SEARCH, "--name", "first")
    moments = random.Random(os.environ.get("PYTEST_XDIST_TESTRUNUID", "0"))  # noqa: S311 - each run of the suite kills elsewhere
    main = clone.start(*arguments)
    runs = clone.state / "sweeps" / "first" / "runs"
    clone.wait(lambda: clone.process_with("flows.sweep.slot"), "a trial", process=main)
    for _ in range(moments.randrange(40)):  # each look at all processes takes some time: a moment within the trials
        clone.processes()
        if len(list(runs.glob("*.json"))) > 1:
            break
    os.kill(main.pid, signal.SIGKILL)
    main.communicate(timeout=120)
    clone.wait_for_end()
    resumed = clone.report("sweep", "resume", "first")
    assert table(resumed) == table(shown)
    parent, _ = runs_of(clone, "first")
    assert parent.info.status == "FINISHED"


def test_a_worse_trial_is_pruned_and_says_so(copy):
    """Training stops at a validation, nothing is left of it, and sweep and record call it pruned."""
    rates = "1e-3,1.1e-3,1.2e-3,1.3e-3,1.4e-3,1e-7"
    longer = copy.root / "params.yaml"
    copy.set(finetune__epochs=12)
    text = longer.read_text(encoding="utf-8")
    shown = copy.report(
        "sweep", f"finetune.learning_rate={rates}", "--pruner", "median", "--metric", "loss", "--parallel", "1"
    )
    assert [trial["state"] for trial in shown["trials"]] == ["complete"] * 5 + ["pruned"]
    assert longer.read_text(encoding="utf-8") == text
    assert not list((copy.state / "checkpoints").glob("*"))
    _, trials = runs_of(copy, "learning_rate")
    (pruned,) = [run for run in trials if run.info.status != "FINISHED"]
    assert pruned.data.tags["pretune.trial"] == "5"
    assert pruned.data.tags["pretune.trial_state"] == "pruned"
