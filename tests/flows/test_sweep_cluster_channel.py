"""The pool's end of a slot on a cluster, and the end on the node, without Ray."""

from __future__ import annotations

import contextlib
import json
from types import SimpleNamespace

import pytest

from flows.sweep import cluster_channel, relay
from flows.sweep.cluster_channel import ClusterChannel
from flows.sweep.pool import INTERRUPTED, Share
from pretune.errors import StageFailedError

RUN, NEXT = (json.dumps({"run": {"number": number, "seed": 0, "split": ""}}) + "\n" for number in (3, 4))
STOP = json.dumps({"stop": INTERRUPTED, "of": [3, 0, ""]}) + "\n"


class FakeRay:
    """Actors that answer with what is planned: lists of lines, or an error; none while `room` is False."""

    exceptions = SimpleNamespace(RayError=RuntimeError)

    def __init__(self, answers, *, room=True):
        self.answers, self.room, self.written, self.killed = answers, room, [], 0
        self.lines = SimpleNamespace(remote=lambda: "lines")
        self.write = SimpleNamespace(remote=lambda first, lines: self.written.append((first, list(lines))))

    def wait(self, references, timeout):
        return (references if self.room else []), timeout

    def get(self, _reference):
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def kill(self, _actor):
        self.killed += 1


@pytest.fixture
def open_channel(tmp_path, monkeypatch):
    """A function that opens a channel to a FakeRay."""
    monkeypatch.setattr(cluster_channel.overrides, "make_copy", lambda *_: None)
    monkeypatch.setattr(cluster_channel.slot, "prepare_state", lambda *_: None)

    def open_channel(ray):
        owner = SimpleNamespace(ray=ray, next_step="resume", actor=lambda *_: ray, make_room=lambda: None)
        return ClusterChannel(owner, tmp_path, tmp_path / "slots" / "0", Share(1, []), tmp_path / "0.log")

    return open_channel


def event(name, **content):
    """A line of a slot."""
    return json.dumps({"event": name, **content}) + "\n"


def test_a_trial_that_is_lost_three_times_is_an_error(open_channel):
    """It runs again twice; the error names the node and the next command."""
    ray = FakeRay([["one"], RuntimeError("gone"), ["two"], RuntimeError("gone"), ["three"], RuntimeError("gone")])
    channel = open_channel(ray)
    channel.write(RUN)
    assert "process on one was lost (gone)" in channel.readline()
    assert "process on two was lost (gone)" in channel.readline()
    with pytest.raises(StageFailedError, match="3 times; the last one on three") as caught:
        channel.readline()
    assert caught.value.next_step.endswith("resume")
    assert ray.written == [(0, [RUN])] * 3


def test_validations_that_a_lost_slot_reported_are_not_reported_again(open_channel):
    """A pruner would count them twice."""
    first, second = (event("validation", stage="pretrain", number=number, metrics={}) for number in (1, 2))
    ray = FakeRay([["one", first], RuntimeError("gone"), ["two", first, second]])
    channel = open_channel(ray)
    channel.write(RUN)
    assert channel.readline() == first
    assert "warning" in channel.readline()
    assert channel.readline() == second


def test_a_trial_that_waits_for_a_node_can_be_stopped(open_channel):
    """It answers as a trial that was stopped."""
    channel = open_channel(FakeRay([], room=False))
    channel.write(RUN)
    channel.write(STOP)
    done = json.loads(channel.readline())
    assert (done["event"], done["ended"], done["problems"]) == ("done", "stopped", [INTERRUPTED])


def test_a_stop_concerns_the_trial_that_it_names(open_channel):
    """One that comes before its request waits for it; one for another trial does not stop this one."""
    ray = FakeRay([["one", event("done")]])
    channel = open_channel(ray)
    channel.write(STOP)
    channel.write(NEXT)
    assert ray.written[-1] == (0, [NEXT])
    assert json.loads(channel.readline())["event"] == "done"
    channel.write(RUN)
    assert ray.written[-1] == (1, [RUN, STOP])
    ray.answers.append(RuntimeError("gone"))
    assert json.loads(channel.readline())["ended"] == "stopped"


def test_a_slot_with_nothing_to_do_makes_room_and_comes_back(open_channel):
    """One that works on a trial is left alone."""
    ray = FakeRay([["one", event("done")], ["two", event("done")]])
    channel = open_channel(ray)
    channel.write(RUN)
    channel.end_if_idle()
    assert ray.killed == 0
    assert json.loads(channel.readline())["event"] == "done"
    channel.end_if_idle()
    assert ray.killed == 1
    channel.write(RUN)
    assert json.loads(channel.readline())["event"] == "done"
    assert ray.written == [(0, [RUN])] * 2


def test_lines_arrive_once_and_in_order(tmp_path):
    """Whatever the order of the calls; a stop for an earlier request does not reach the next."""
    received = tmp_path / "received"
    with received.open("w", encoding="utf-8") as file:
        channel = relay.Relay.__new__(relay.Relay)
        channel._writing, channel._written = contextlib.nullcontext(), 0
        channel._process = SimpleNamespace(stdin=file)
        channel.write(0, ["run\n", "stop\n"])
        channel.write(0, ["run\n"])
        channel.write(3, ["second\n"])
        channel.write(0, ["run\n", "stop\n", "late\n"])
    assert received.read_text(encoding="utf-8") == "run\nstop\nsecond\n"
