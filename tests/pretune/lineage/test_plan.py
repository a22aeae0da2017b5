from __future__ import annotations

import pytest

from pretune.lineage.graph import Workspace


def repro(project):
    """Run what is stale, as `dvc repro` does."""
    Workspace(project).repo.reproduce()


def edit(path, old, new):
    """Replace a text in a file."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def planned(project, *names):
    """Action and reasons of each stage."""
    return {decision.stage: (decision.action, decision.reasons) for decision in Workspace(project).plan(list(names))}


def actions(project, *names):
    """Action of each stage."""
    return {stage: action for stage, (action, _) in planned(project, *names).items()}


def test_before_the_first_run_everything_runs(project):
    """The first stage was never run here; the others wait for it."""
    found = planned(project)
    assert {action for action, _ in found.values()} == {"run"}
    assert found["ingest"][1] == ["never run here"]
    assert found["prepare"][1][0] == "after ingest"


def test_after_a_run_everything_is_skipped(done):
    """Nothing changed: nothing to do, no reasons."""
    assert list(planned(done).values()) == [("skip", [])] * 4


def test_planning_changes_nothing(done):
    """Neither a plan of nothing nor one of something writes a file."""
    edit(done / "params.yaml", "seed: 0", "seed: 1")
    before = {path: path.read_bytes() for path in done.glob("*") if path.is_file()}
    planned(done)
    assert {path: path.read_bytes() for path in done.glob("*") if path.is_file()} == before


def test_a_changed_parameter_runs_the_stage_that_reads_it_and_what_follows(done):
    """`seed` is read by prepare: ingest and scratch stay, and the reason names the key."""
    edit(done / "params.yaml", "seed: 0", "seed: 1")
    found = planned(done)
    assert {stage: action for stage, (action, _) in found.items()} == {
        "ingest": "skip", "prepare": "run", "finetune": "run", "scratch": "skip",
    }  # fmt: skip
    assert any("seed" in reason for reason in found["prepare"][1])
    assert found["finetune"][1] == ["after prepare"]


def test_changed_code_is_named(done):
    """An edit in a helper runs the stage that lists it, and says which file."""
    edit(done / "pretune" / "helper.py", "1", "2")
    found = planned(done)
    assert found["ingest"] == ("run", ["pretune/helper.py: modified"])


def test_a_lost_output_is_restored_from_the_cache(done):
    """What the run cache holds does not run again, and what follows is fresh."""
    (done / "raw.txt").unlink()
    found = planned(done)
    assert found["ingest"] == ("restore", ["raw.txt: missing"])
    assert found["prepare"][0] == "skip"


def test_values_that_ran_before_are_restored(done):
    """Back to earlier parameters: DVC has the result, stages after it included."""
    edit(done / "params.yaml", "seed: 0", "seed: 1")
    repro(done)
    edit(done / "params.yaml", "seed: 1", "seed: 0")
    assert actions(done) == {"ingest": "skip", "prepare": "restore", "finetune": "skip", "scratch": "skip"}


def test_a_change_upstream_that_ran_before_restores_downstream(done):
    """Another source and back: every stage is restored, none runs."""
    edit(done / "source.txt", "hello", "other")
    repro(done)
    edit(done / "source.txt", "other", "hello")
    assert actions(done) == dict.fromkeys(["ingest", "prepare", "finetune", "scratch"], "restore")
    repro(done)
    assert set(actions(done).values()) == {"skip"}


def test_a_result_that_left_the_cache_runs(done):
    """Neither the file nor the cache has it: it must be made."""
    import shutil

    (done / "raw.txt").unlink()
    shutil.rmtree(done / ".dvc" / "cache" / "files")
    assert actions(done, "ingest") == {"ingest": "run"}


@pytest.mark.parametrize("folder", ["done/pretune", ".."])
def test_a_plan_does_not_depend_on_the_current_folder(done, monkeypatch, folder):
    """From below the workspace or from outside of it: what is restored, what runs, and why, by the same paths."""
    edit(done / "params.yaml", "seed: 0", "seed: 1")
    repro(done)
    edit(done / "params.yaml", "seed: 1", "seed: 0")
    edit(done / "pretune" / "helper.py", "1", "2")
    (done / "tuned.txt").unlink()
    here = planned(done), [Workspace(done).why(name) for name in ("ingest", "prepare", "finetune")]
    monkeypatch.chdir(done.parent / folder)
    assert (planned(done), [Workspace(done).why(name) for name in ("ingest", "prepare", "finetune")]) == here
    edit(done / "pretune" / "helper.py", "2", "1")
    assert actions(done) == {"ingest": "skip", "prepare": "restore", "finetune": "restore", "scratch": "skip"}


def test_only_what_was_asked_for_is_planned(done):
    """Stages that the named ones do not need are not in the plan."""
    assert set(actions(done, "scratch")) == {"ingest", "scratch"}


def test_the_plan_is_what_dvc_then_does(done):
    """Stages planned to be skipped are those that DVC leaves alone."""
    edit(done / "params.yaml", "epochs: 15", "epochs: 16")
    expected = {stage for stage, action in actions(done).items() if action == "run"}
    ran = {stage.name for stage in Workspace(done).repo.reproduce()}
    assert ran == expected == {"finetune"}


def test_why_shows_parameters_old_and_new(done):
    """Dotted key, value then and value now; what did not change is left out."""
    edit(done / "params.yaml", "epochs: 15", "epochs: 16")
    found = Workspace(done).why("finetune")
    assert found["params"] == {"finetune.epochs": (15, 16)}
    assert (found["deps"], found["code"], found["outs"], found["command"]) == ({}, {}, {}, False)


def test_why_tells_code_from_data(done):
    """Files of ours are code, other dependencies data."""
    edit(done / "pretune" / "helper.py", "1", "2")
    edit(done / "source.txt", "hello", "other")
    (done / "raw.txt").unlink()
    found = Workspace(done).why("ingest")
    assert found["code"] == {"pretune/helper.py": "modified"}
    assert found["deps"] == {"source.txt": "modified"}
    assert found["outs"] == {"raw.txt": "deleted"}


def test_why_shows_a_key_that_came_or_went(done):
    """A parameter that is new was None, one that is gone is None."""
    edit(done / "params.yaml", "  epochs: 15", "  rounds: 15")
    assert Workspace(done).why("finetune")["params"] == {"finetune.epochs": (15, None), "finetune.rounds": (None, 15)}


def test_why_of_a_changed_command(done):
    """Another command is a reason of its own."""
    edit(done / "dvc.yaml", "cp raw.txt scratch.txt", "cat raw.txt > scratch.txt")
    assert Workspace(done).why("scratch")["command"] is True
    assert planned(done, "scratch")["scratch"] == ("run", ["the command changed"])


def test_why_of_a_stage_that_never_ran_shows_what_it_would_read(project):
    """Without dvc.lock every parameter is new and every file unknown."""
    found = Workspace(project).why("prepare")
    assert found["params"]["seed"] == (None, 0)
