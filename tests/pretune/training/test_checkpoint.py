"""When checkpoints are written, and errors other than those of the disk."""

from __future__ import annotations

import threading
import warnings
from contextlib import closing
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pretune.training import checkpoint
from pretune.training.checkpoint import Checkpoints
from pretune.training.parallel import World

ALONE = World(torch.device("cpu"))
SECONDS = st.floats(0.001, 20)


class Clock:
    """A clock that is set by hand."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    """The clock of checkpoints."""
    clock = Clock()
    monkeypatch.setattr(checkpoint, "time", clock)
    return clock


@pytest.fixture
def lasting(request, monkeypatch, clock):
    """Seconds that each write takes, and whether it then fails for lack of space; nothing is written."""
    chosen = SimpleNamespace(seconds=0.0, fails=getattr(request, "param", False))

    def write(_tensors, _writer, **_):
        clock.now += chosen.seconds
        if chosen.fails:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "_save_state_dict", write)
    monkeypatch.setattr(checkpoint, "publish", lambda *_: None)
    return chosen


def test_the_first_is_written_after_a_minute(tmp_path, clock):
    """Shorter runs write none."""
    with closing(Checkpoints(tmp_path, ALONE)) as checkpoints:
        clock.now += checkpoint.EVERY - 0.01
        assert not checkpoints.due()
        clock.now += 0.01
        assert checkpoints.due()


@pytest.mark.parametrize(("seconds", "pause"), [(0.1, 60), (0.6, 60), (3, 300), (60, 6000)])
@pytest.mark.parametrize("lasting", [False, True], ids=["written", "failed"], indirect=True)
def test_the_next_waits_a_hundred_times_as_long_as_the_last_took(tmp_path, clock, lasting, seconds, pause):
    """But a minute at least; a failed one counts as well."""
    lasting.seconds = seconds
    with closing(Checkpoints(tmp_path, ALONE)) as checkpoints:
        checkpoints.save(1, {}, {})
        checkpoints.wait()
        clock.now += pause - 0.01
        assert not checkpoints.due()
        clock.now += 0.02
        assert checkpoints.due()


@given(writes=st.lists(SECONDS, min_size=1, max_size=20), step=st.floats(0.01, 30))
def test_writing_takes_less_than_two_percent_of_the_time(tmp_path_factory, writes, step):
    """Of the time until the next one is due, for any duration of writes and steps."""
    clock, spent = Clock(), 0.0

    def write(_tensors, _writer, **_):
        clock.now += writes[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "time", clock)
        patch.setattr(checkpoint, "_save_state_dict", write)
        patch.setattr(checkpoint, "publish", lambda *_: None)
        began = clock.now
        with closing(Checkpoints(tmp_path_factory.mktemp("cadence"), ALONE)) as checkpoints:
            while writes:
                while not checkpoints.due():
                    clock.now += step
                checkpoints.save(1, {}, {})
                checkpoints.wait()
                spent += writes.pop(0)
            while not checkpoints.due():
                clock.now += step
        assert spent < 0.02 * (clock.now - began)


def test_none_is_due_while_one_is_written(tmp_path, clock, monkeypatch):
    """However long that takes; afterwards its duration counts."""
    go_on = threading.Event()
    monkeypatch.setattr(checkpoint, "_save_state_dict", lambda *_, **__: go_on.wait(60))
    monkeypatch.setattr(checkpoint, "publish", lambda *_: None)
    with closing(Checkpoints(tmp_path, ALONE)) as checkpoints:
        checkpoints.save(1, {}, {})
        clock.now += 1e6
        assert not checkpoints.due()
        go_on.set()
        checkpoints.wait()
        assert not checkpoints.due()
        clock.now += 1e8
        assert checkpoints.due()


def test_the_tensors_are_saved_as_they_are_at_the_call(tmp_path, monkeypatch):
    """Though training changes them while they are written."""
    weight, go_on, save = torch.ones(3), threading.Event(), checkpoint._save_state_dict
    monkeypatch.setattr(checkpoint, "_save_state_dict", lambda *a, **k: (go_on.wait(60), save(*a, **k)))
    with closing(Checkpoints(tmp_path, ALONE)) as checkpoints:
        checkpoints.save(1, {"weight": weight}, {})
        weight.zero_()
        go_on.set()
    with closing(Checkpoints(tmp_path, ALONE)) as checkpoints:
        assert checkpoints.load({"weight": weight}) == {}
    assert weight.tolist() == [1, 1, 1]


def broken(*_, **__):
    """Fail with an unexpected error."""
    raise RuntimeError("a defect")


@pytest.mark.parametrize("place", ["publish", "HuggingFaceStorageWriter.write_data"])
@pytest.mark.parametrize("method", ["due", "save", "wait", "close"])
def test_an_error_that_is_not_the_disk_s_is_raised_by_the_next_call(tmp_path, monkeypatch, place, method):
    """An error in the writer thread is neither lost nor raised twice."""
    monkeypatch.setattr(f"pretune.training.checkpoint.{place}", broken)
    checkpoints = Checkpoints(tmp_path, ALONE, every=0.0)
    checkpoints.save(1, {"weight": torch.ones(3)}, {})
    checkpoints._writer.submit(int).result()  # the thread has finished the checkpoint
    call = {"save": lambda: checkpoints.save(2, {}, {})}.get(method) or getattr(checkpoints, method)
    with pytest.raises(BaseException, match="a defect"):
        call()
    checkpoints.close()
    assert not list(tmp_path.glob("step-????????"))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("checkpoint")]


def test_filters_of_warnings_are_left_alone(tmp_path, monkeypatch):
    """They are global: a change in the writer thread would affect training."""
    filters, seen = list(warnings.filters), []
    save = checkpoint._save_state_dict

    def spy(*arguments, **named):
        seen.append(list(warnings.filters))
        save(*arguments, **named)
        seen.append(list(warnings.filters))

    monkeypatch.setattr(checkpoint, "_save_state_dict", spy)
    with closing(Checkpoints(tmp_path, ALONE)) as checkpoints:
        checkpoints.save(1, {"weight": torch.ones(3)}, {})
    assert seen == [filters, filters]


def test_closing_twice_is_closing_once(tmp_path):
    """A stopped loop closes, and so does the stage."""
    checkpoints = Checkpoints(tmp_path, ALONE)
    checkpoints.save(1, {"weight": torch.ones(3)}, {})
    checkpoints.close()
    checkpoints.close()
    checkpoint.verify(tmp_path / "step-00000001")
