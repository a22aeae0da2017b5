"""Load, memory and energy of a stage that trains: quietly, offline, and never in the way."""

from __future__ import annotations

import logging
import socket
import sys
import threading

import pytest

from pretune.runtime import monitoring

PATIENCE = 120  # seconds until meters are found, on a busy machine


@pytest.fixture(autouse=True)
def apart(tmp_path, monkeypatch):
    """A folder and a home of the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.slow
def test_energy_is_estimated_without_a_network_a_file_or_a_word(tmp_path, monkeypatch, capfd):
    """Both numbers, above 0 and in proportion; nobody is called, nothing lies there or is printed afterwards."""
    called, written = [], []
    monkeypatch.setattr(socket.socket, "connect", lambda _, address: called.append(address))
    with monitoring.energy(written.append, 1, delay=0) as reads:
        assert reads.wait(PATIENCE)
    (found,) = written
    assert found.keys() == {"energy_kwh", "co2_kg"}
    assert 0 < found["energy_kwh"] < 1
    assert 0 < found["co2_kg"] < found["energy_kwh"]  # no country's mix emits more than a kilogram
    assert (called, list(tmp_path.iterdir()), capfd.readouterr()) == ([], [], ("", ""))


@pytest.mark.slow
def test_co2_is_that_of_the_country(monkeypatch):
    """Sweden's electricity emits less than the world's mean."""
    shares = []
    for country in ("SWE", ""):
        monkeypatch.setenv("CODECARBON_COUNTRY_ISO_CODE", country)
        with monitoring.energy(lambda found: shares.append(found["co2_kg"] / found["energy_kwh"]), 1, delay=0) as reads:
            assert reads.wait(PATIENCE)
    assert shares[0] < shares[1] / 2


def test_without_codecarbon_nothing_is_said(monkeypatch):
    """The extra is optional: the block runs as ever."""
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    written = []
    with monitoring.energy(written.append, 1, delay=0):
        _ended()
    assert written == []


def test_a_tracker_that_fails_is_nobodys_concern(monkeypatch):
    """Whatever it raises, at the start or at the end."""

    class Broken:
        _scheduler_monitor_power = threading.Event()

        def start(self):
            self._scheduler_monitor_power.stop = lambda: None

        def stop(self):
            raise RuntimeError

    written = []
    monkeypatch.setattr(monitoring, "_tracker", lambda _: Broken())
    with monitoring.energy(written.append, 1, delay=0) as reads:
        assert reads.wait(PATIENCE)
    monkeypatch.setattr(monitoring, "_tracker", lambda _: 1 / 0)
    with monitoring.energy(written.append, 1, delay=0):
        _ended()
    assert written == []


def test_a_short_block_costs_nothing(monkeypatch):
    """Before the delay is over nobody looks for meters, and the thread is gone with the block."""
    monkeypatch.setattr(monitoring, "_tracker", lambda _: pytest.fail("looked for meters"))
    with monitoring.energy(print, 1):
        pass
    _ended()


def test_the_error_of_the_block_is_passed_on():
    """Energy hides no failure of training."""
    with pytest.raises(ZeroDivisionError), monitoring.energy(print, 1):
        raise ZeroDivisionError


@pytest.mark.parametrize(("visible", "cards"), [(None, ["0", "1"]), ("3,5,7", ["3", "5"]), ("", [])])
def test_only_the_cards_that_compute_are_counted(visible, cards, monkeypatch):
    """One for each process, of those that may be seen."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert monitoring._tracker(2)._gpu_ids == cards
    assert logging.getLogger("codecarbon").level == logging.CRITICAL


def test_samples_come_from_a_thread_and_end_with_the_block():
    """Written under MLflow's names, numbered from 0, by a thread of their own that is gone afterwards."""
    enough, written = threading.Event(), []

    def write(values, number):
        written.append((number, values, threading.current_thread().name))
        if len(written) == 3:
            enough.set()

    with monitoring.system(write, every=0.01):
        assert enough.wait(30)
    assert [number for number, *_ in written[:3]] == [0, 1, 2]
    assert {thread for *_, thread in written} == {"system-metrics"}
    assert "system/cpu_utilization_percentage" in written[0][1]
    assert "system-metrics" not in {thread.name for thread in threading.enumerate()}


def test_it_ends_when_the_work_fails():
    """The error is passed on, the thread is gone."""
    with pytest.raises(ZeroDivisionError), monitoring.system(lambda *_: None):
        raise ZeroDivisionError
    assert "system-metrics" not in {thread.name for thread in threading.enumerate()}


def test_a_short_block_says_nothing():
    """The load of less than a second is not worth a number."""
    written = []
    with monitoring.system(lambda *each: written.append(each)):
        pass
    assert written == []


def test_a_sample_is_of_plausible_numbers():
    """Percent between 0 and 100, megabytes above 0."""
    found = monitoring.sample()
    assert all(0 <= value <= 100 for name, value in found.items() if name.endswith("percentage"))
    assert all(value > 0 for name, value in found.items() if name.endswith("megabytes"))


def _ended():
    """Wait for the thread, wherever it is."""
    for thread in threading.enumerate():
        if thread.name == "energy":
            thread.join(PATIENCE)
            assert not thread.is_alive()
