"""SIGTERM and SIGINT: the step is finished, the state kept, and the process goes."""

from __future__ import annotations

import signal

import pytest

CASE = {
    "objective": "masked",
    "settings": {"evaluate_every": 4, "metric_for_best_model": "loss"},
    "steps": 13,
    "save_every": 100,
}
CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}


@pytest.mark.parametrize("number", CODES)
@pytest.mark.parametrize("step", [1, 7, 10, 13])
def test_a_signal_ends_the_run_after_the_step_and_nothing_of_it_is_lost(trainees, number, step):
    """Also in the first and in the last step; what goes on from there ends in the same bits."""
    folder = trainees.folder()
    stopped = trainees.run(CASE | {"folder": folder, "signal_in": step, "signals": [number], "workers": 3})
    assert stopped.code == CODES[number], stopped.stderr
    assert trainees.whole(folder) == [step]
    assert stopped.result["threads"] == ["MainThread"]
    ended = trainees.finish(CASE | {"folder": folder})
    assert ended.result["resumed"] == step
    assert ended.learnt == trainees.finish(CASE).learnt


def test_the_message_says_where_it_stopped(trainees):
    """Exit code 143 and a line for people."""
    stopped = trainees.run(CASE | {"signal_in": 3, "signals": [signal.SIGTERM]})
    assert stopped.stderr == "stopped by SIGTERM after step 3 of 13\n"


def test_a_signal_while_a_checkpoint_is_written_waits_for_it(trainees):
    """The one that was begun is finished before the last one is written."""
    folder = trainees.folder()
    case = CASE | {"folder": folder, "wait": False, "save_every": 1}
    stopped = trainees.run(case | {"signal_in": 6, "signals": [signal.SIGTERM]})
    assert stopped.code == 143
    assert trainees.whole(folder) == [5, 6]


@pytest.mark.parametrize("numbers", [[15, 15], [2, 2], [2, 15]])
def test_a_second_signal_ends_the_process_at_once(trainees, numbers):
    """No step is finished, nothing is written; the checkpoint before is used."""
    folder = trainees.folder()
    case = CASE | {"folder": folder, "save_every": 3}
    assert trainees.run(case | {"signal_in": 5, "signals": numbers}).code == -numbers[1]
    assert trainees.whole(folder) == [3]
    assert trainees.finish(case).learnt == trainees.finish(CASE).learnt


def test_a_run_that_stopped_early_and_was_then_interrupted_does_not_go_on(trainees):
    """The signal comes in the very step after which patience is at its end."""
    settings = {
        "evaluate_every": 1,
        "metric_for_best_model": "loss",
        "patience": 1,
        "learning_rate": 0.5,
        "warmup": 1.0,
    }
    case = CASE | {"settings": settings}
    never_stopped = trainees.finish(case)
    steps = never_stopped.result["steps"]
    assert steps < 13
    folder = trainees.folder()
    assert trainees.run(case | {"folder": folder, "signal_in": steps, "signals": [15]}).code == 143
    ended = trainees.finish(case | {"folder": folder})
    assert ended.result["resumed"] == steps
    assert ended.learnt == never_stopped.learnt
