"""SIGTERM and SIGINT: training finishes the step, writes a checkpoint and ends."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from pretune import process

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
    """Also in the first and in the last step; a resumed run ends in the same bits."""
    folder = trainees.folder()
    stopped = trainees.run(CASE | {"folder": folder, "signal_in": step, "signals": [number], "workers": 3})
    assert stopped.code == CODES[number], stopped.stderr
    assert trainees.intact(folder) == [step]
    assert stopped.result["threads"] == ["MainThread"]
    ended = trainees.finish(CASE | {"folder": folder})
    assert ended.result["resumed"] == step
    assert ended.learnt == trainees.finish(CASE).learnt


def test_the_message_says_where_it_stopped(trainees):
    """In one line on stderr."""
    stopped = trainees.run(CASE | {"signal_in": 3, "signals": [signal.SIGTERM]})
    assert stopped.stderr == "stopped by SIGTERM after step 3 of 13\n"


def test_a_signal_while_a_checkpoint_is_written_waits_for_it(trainees):
    """It is finished before the last one is written."""
    folder = trainees.folder()
    case = CASE | {"folder": folder, "wait": False, "save_every": 1}
    stopped = trainees.run(case | {"signal_in": 6, "signals": [signal.SIGTERM]})
    assert stopped.code == 143
    assert trainees.intact(folder) == [5, 6]


@pytest.mark.parametrize("numbers", [[15, 15], [2, 2], [2, 15]])
def test_a_second_signal_ends_the_process_at_once(trainees, numbers):
    """The step is not finished, nothing is written; the checkpoint before is used."""
    folder = trainees.folder()
    case = CASE | {"folder": folder, "save_every": 3}
    assert trainees.run(case | {"signal_in": 5, "signals": numbers}).code == -numbers[1]
    assert trainees.intact(folder) == [3]
    assert trainees.finish(case).learnt == trainees.finish(CASE).learnt


def test_a_run_that_was_interrupted_when_it_stopped_early_does_not_continue(trainees):
    """The signal comes in the last step before early stopping."""
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


def test_signals_are_noted_in_their_order_and_passed_to_the_handler():
    """Without `second_kills` any number of them; afterwards the former handlers are back."""
    former = [signal.getsignal(number) for number in CODES]
    handled = []
    with process.stop_signals(handled.append, second_kills=False) as received:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGTERM):
            os.kill(os.getpid(), number)
    assert received == handled == [signal.SIGINT, signal.SIGTERM, signal.SIGTERM]
    assert [signal.getsignal(number) for number in CODES] == former


def test_a_handler_may_raise_and_by_then_a_second_signal_kills():
    """The exception leaves the block, after which the former handlers are back."""
    former = [signal.getsignal(number) for number in CODES]
    during = []

    def stop(number):
        during.extend(signal.getsignal(other) for other in CODES)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), process.stop_signals(stop):
        os.kill(os.getpid(), signal.SIGTERM)
    assert during == [signal.SIG_DFL, signal.SIG_DFL]
    assert [signal.getsignal(number) for number in CODES] == former


def test_in_another_thread_no_handler_is_set():
    """Only the main thread may set them."""
    handlers = []

    def look():
        with process.stop_signals() as received:
            handlers.extend([received, *(signal.getsignal(number) for number in CODES)])

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert handlers == [[], *(signal.getsignal(number) for number in CODES)]
