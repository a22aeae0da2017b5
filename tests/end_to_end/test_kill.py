from __future__ import annotations

import json
import os
import signal

import pytest

pytestmark = pytest.mark.slow
COMMANDS = {
    "flow": ["-m", "cli.app", "run", "pretrain"],
    "plain": ["-m", "cli.app", "run", "pretrain", "--no-prefect"],
    "dvc": ["-m", "dvc", "repro", "pretrain"],
    "tasks": ["-m", "tasks", "pretrain"],
}
# The moments in the life of the stage at which something is killed, in the order in which they come.
STARTED, TRAINING, SAVING, PUBLISHED = "started", "training", "saving", "published"


def moment_has_come(clone, point, began):
    """Whether the stage `pretrain` has got as far as `point`."""
    if point == STARTED:
        return clone.process("-m tasks pretrain")
    if point == TRAINING:
        return clone.lock_holder("pretrain") and clone.is_training()
    folder = clone.root / "models"
    saved = folder / ("pretrained" if point == PUBLISHED else ".pretrained.partial")
    return saved.exists() and saved.stat().st_ctime_ns > began


def interrupt(clone, way, victim, point, **env):
    """Start a run, and kill -9 the victim at `point`; nothing of the run may survive, nothing be half written."""
    marker = clone.root.parent / "began"
    marker.touch()
    before = clone.hashes("pretrain")
    began = marker.stat().st_ctime_ns
    main = clone.start(*COMMANDS[way], **env)
    clone.wait(lambda: moment_has_come(clone, point, began), point, process=main)
    pids = {
        "main": lambda: main.pid,
        "dvc": lambda: clone.process("repro --single-item pretrain"),
        "stage": lambda: clone.process("-m tasks pretrain"),
        "server": lambda: clone.process_with(" -m flows.forkserver "),
    }
    os.kill(clone.wait(pids[victim], f"the process of {victim}"), signal.SIGKILL)
    printed = main.communicate(timeout=120)[0]
    clone.wait_for_end()
    if point != PUBLISHED:  # what is there now was there before: nobody has gone on and published
        assert clone.hashes("pretrain").items() <= before.items()
    return main.returncode, printed


def assert_whole_or_absent(clone, undisturbed):
    """Every file of `pretrain` that is there has the bytes of the undisturbed run, and no folder lacks one."""
    whole = undisturbed.hashes("pretrain")
    for out in clone.outs("pretrain"):
        if (clone.root / out).exists():
            expected = {name: value for name, value in whole.items() if name == out or name.startswith(out + "/")}
            found = {n: v for n, v in clone.hashes("pretrain").items() if n == out or n.startswith(out + "/")}
            assert found == expected


def assert_recovers(clone, undisturbed, *, whole_pipeline):
    """The next run finishes, leaves the undisturbed bytes and no half-written file, and no run is RUNNING."""
    clone.plain_run(*([] if whole_pipeline else ["pretrain"]))
    if whole_pipeline:
        assert clone.hashes() == undisturbed.hashes()
        assert clone.dvc_is_clean()
    assert clone.locked()["pretrain"] == undisturbed.locked()["pretrain"]
    with_lock, expected = clone.hashes("pretrain"), undisturbed.hashes("pretrain")
    assert {k: v for k, v in with_lock.items() if k != "dvc.lock"} == {
        k: v for k, v in expected.items() if k != "dvc.lock"
    }
    assert clone.leftovers() == []
    assert "RUNNING" not in {run.info.status for run in clone.records()}


def new_runs(clone, old):
    """[(stage or `pipeline`, status)] of the runs since `old`, the oldest first."""
    known = {run.info.run_id for run in old}
    runs = [run for run in clone.records() if run.info.run_id not in known]
    return [(run.data.tags.get("pretune.stage", run.data.tags["pretune.kind"]), run.info.status) for run in runs]


def test_killed_flow_leaves_nothing_behind(stale, undisturbed):
    """A kill -9 of the flow, at several points: no orphan, no half output; the next run ends with the same hashes."""
    old = stale.records()
    for point in (STARTED, TRAINING):
        code, _ = interrupt(stale, "flow", "main", point)
        assert code == -signal.SIGKILL
    assert_recovers(stale, undisturbed, whole_pipeline=True)
    runs = new_runs(stale, old)
    assert [status for name, status in runs if name == "pipeline"] == ["KILLED", "KILLED", "FINISHED"]
    trained = [status for name, status in runs if name == "pretrain"]
    assert trained[-2:] == ["KILLED", "FINISHED"]
    assert set(trained[:-2]) <= {"KILLED"}


def test_killed_dvc_leaves_nothing_behind(stale, undisturbed):
    """A kill -9 of `dvc repro`, whatever shell it runs the stage through: the stage dies with it, its outputs whole."""
    old = stale.records()
    for shell, point in (("/bin/bash", TRAINING), ("/bin/dash", PUBLISHED)):
        code, _ = interrupt(stale, "dvc", "main", point, SHELL=shell)
        assert code == -signal.SIGKILL
        assert_whole_or_absent(stale, undisturbed)
    assert_recovers(stale, undisturbed, whole_pipeline=False)
    trained = [status for name, status in new_runs(stale, old) if name == "pretrain"]
    assert "KILLED" in trained
    assert trained[-1] == "FINISHED"


@pytest.mark.parametrize("victim", ["dvc", "stage", "server"])
def test_killed_part_of_a_run_ends_the_run(victim, stale, undisturbed):
    """A kill -9 of a run's dvc or stage, or of what forked both: the run ends with exit code 6, the next is whole."""
    old = stale.records()
    for point in (STARTED, SAVING) if victim == "stage" else (TRAINING,):
        code, printed = interrupt(stale, "plain", victim, point)
        assert code == 6, printed
        assert "pretrain" in printed
        assert "Traceback" not in printed
    assert_recovers(stale, undisturbed, whole_pipeline=False)
    runs = new_runs(stale, old)
    assert set(runs) == {("pipeline", "FAILED"), ("pretrain", "KILLED"), ("pipeline", "FINISHED")} | {
        (name, "FINISHED") for name in ("ingest", "prepare", "pretrain")
    }


def test_killed_stage_of_a_user_leaves_nothing_behind(stale, undisturbed):
    """A kill -9 of `python -m tasks pretrain`: nothing is half written, and running it again records the same."""
    before = stale.hashes("pretrain")
    interrupt(stale, "tasks", "main", SAVING)
    assert stale.hashes("pretrain") == before, "by hand, nothing deletes the earlier outputs"
    stale.run("-m", "tasks", "pretrain")
    assert_recovers(stale, undisturbed, whole_pipeline=False)


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143)],
    ids=["ctrl-c", "sigterm"],
)
def test_stopped_run_ends_its_stages(number, code, stale):
    """Ctrl-C and SIGTERM end the run with the documented code and no traceback, its stages too; all end as KILLED."""
    old = stale.records()
    lock = (stale.root / "dvc.lock").read_bytes()
    main = stale.start(*COMMANDS["flow"])
    stale.wait(lambda: moment_has_come(stale, TRAINING, 0), TRAINING, process=main)
    os.kill(main.pid, number)
    printed = main.communicate(timeout=120)[0]
    assert main.returncode == code, printed
    assert "Traceback" not in printed
    assert "pretune run" in printed
    stale.wait_for_end()
    assert (stale.root / "dvc.lock").read_bytes() == lock
    assert stale.leftovers() == []
    ended = new_runs(stale, old)
    assert ("pipeline", "KILLED") in ended
    assert ("pretrain", "KILLED") in ended
    assert "RUNNING" not in dict(map(reversed, ended))


def test_stage_that_gets_sigterm_says_so(stale):
    """SIGTERM of `python -m tasks pretrain` ends it with 143, without a traceback; its run ends as KILLED."""
    old = stale.records()
    main = stale.start(*COMMANDS["tasks"])
    stale.wait(lambda: moment_has_come(stale, TRAINING, 0), TRAINING, process=main)
    main.terminate()
    printed = main.communicate(timeout=120)[0]
    assert main.returncode == 143, printed
    assert "Traceback" not in printed
    assert json.loads((stale.state / "last-error.json").read_text(encoding="utf-8"))["exit_code"] == 143
    assert new_runs(stale, old) == [("pretrain", "KILLED")]
    assert stale.leftovers() == []
