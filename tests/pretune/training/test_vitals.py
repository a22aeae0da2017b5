"""How busy the machine is, sampled beside the work."""

from __future__ import annotations

import threading

import pytest

from pretune.training import vitals


def test_samples_come_from_a_thread_and_end_with_the_block():
    """Written under MLflow's names, numbered from 0, by a thread of their own that is gone afterwards."""
    enough, written = threading.Event(), []

    def write(values, number):
        written.append((number, values, threading.current_thread().name))
        if len(written) == 3:
            enough.set()

    with vitals.sampled(write, every=0.01):
        assert enough.wait(30)
    assert [number for number, *_ in written[:3]] == [0, 1, 2]
    assert {thread for *_, thread in written} == {"vitals"}
    assert "system/cpu_utilization_percentage" in written[0][1]
    assert "vitals" not in {thread.name for thread in threading.enumerate()}


def test_it_ends_when_the_work_fails():
    """The error is passed on, the thread is gone."""
    with pytest.raises(ZeroDivisionError), vitals.sampled(lambda *_: None):
        raise ZeroDivisionError
    assert "vitals" not in {thread.name for thread in threading.enumerate()}


def test_a_short_block_says_nothing():
    """The load of less than a second is not worth a number."""
    written = []
    with vitals.sampled(lambda *each: written.append(each)):
        pass
    assert written == []


def test_a_sample_is_of_plausible_numbers():
    """Percent between 0 and 100, megabytes above 0."""
    found = vitals.sample()
    assert all(0 <= value <= 100 for name, value in found.items() if name.endswith("percentage"))
    assert all(value > 0 for name, value in found.items() if name.endswith("megabytes"))
