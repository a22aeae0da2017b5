"""Trials of a sweep on a Ray cluster of two nodes, which are two groups of processes on this machine."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from flows.schedule import Resources
from flows.sweep import cluster, cluster_channel, relay
from flows.sweep.cluster import Cluster, Place
from flows.sweep.cluster_channel import ClusterChannel
from flows.sweep.pool import INTERRUPTED, Share
from pretune.data import workers
from pretune.errors import PretuneError, StageFailedError, WorkspaceError
from pretune.lineage.graph import Node, Workspace
from pretune.runtime.stage import checkpoint_folder

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # Ray drops processes that it has sent a signal
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0"}
TRIES = 3  # Ray gives a node's helpers 15 seconds to start, which they can miss on a busy machine
SWEEP = ["sweep", "pretrain.learning_rate=1e-3,3e-3", "--metric", "pretrain.loss", "--name", "rates"]
STAGE = Node("finetune", "", [], ["threads"], [], [], {})
RUN = json.dumps({"run": {}}) + "\n"
STOP = json.dumps({"stop": INTERRUPTED}) + "\n"


@pytest.fixture(scope="module")
def nodes():
    """A local cluster with one node."""
    pytest.importorskip("ray")
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="ray") as folder:  # a short path: sockets lie in it
        os.environ |= SETTINGS | {"RAY_TMPDIR": folder}
        os.makedirs(os.path.join(folder, "ray"))  # noqa: PTH103, PTH118 - where Ray notes the address for `auto`
        import ray
        from ray.cluster_utils import Cluster as LocalCluster

        local = LocalCluster()
        add(local, include_dashboard=False)
        yield local
        ray.shutdown()
        local.shutdown()
        gc.collect()  # what Ray drops warns here, not in another test
    os.environ.clear()
    os.environ |= before


def add(local, **settings):
    """Add a node, which may take more than one try."""
    for attempt in range(TRIES):
        try:
            return local.add_node(**NODE, **settings)
        except Exception:  # Ray has no class for it
            if attempt == TRIES - 1:
                raise
    return None


@pytest.fixture
def named(nodes, monkeypatch):
    """The cluster, with two nodes and named by PRETUNE_CLUSTER."""
    if not nodes.worker_nodes:
        add(nodes)
    monkeypatch.setenv(workers.CLUSTER, nodes.address)
    return nodes


@pytest.fixture(scope="module")
def clones():
    """The module that makes clones, tests/end_to_end/conftest.py."""
    path = Path(__file__).parents[1] / "end_to_end" / "conftest.py"
    spec = importlib.util.spec_from_file_location("clones_for_clusters", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look it up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def prepared(clones, tmp_path_factory):
    """A tiny clone with prepared data, which pretrains for a while with as many checkpoints as possible."""
    clone = clones.make_clone(tmp_path_factory.mktemp("prepared"))
    clone.set(pretrain__steps=200, pretrain__evaluate_every=50)
    code = clone.root / "pretune" / "training" / "checkpoint.py"
    text = code.read_text(encoding="utf-8")
    assert "\nEVERY = 60.0" in text
    code.write_text(text.replace("\nEVERY = 60.0", "\nEVERY = 0.0"), encoding="utf-8")
    clone.alone("-m", "cli.app", "run", "prepare", "--no-prefect")
    clone.wait_for_end()
    return clone


@pytest.fixture
def clone(clones, prepared, tmp_path):
    """A copy of it."""
    clone = clones.copy_clone(prepared, tmp_path)
    yield clone
    clone.end_all()


@pytest.fixture(scope="module")
def expected(clones, prepared, tmp_path_factory):
    """What the sweep gives without a cluster."""
    clone = clones.copy_clone(prepared, tmp_path_factory.mktemp("here"))
    clone.alone("-m", "cli.app", *SWEEP)
    return outcomes(clone)


def outcomes(clone):
    """{run: its values and dvc.lock}."""
    found = {}
    for path in (clone.state / "sweeps" / "rates" / "runs").glob("*.json"):
        outcome = json.loads(path.read_text(encoding="utf-8"))
        found[path.name] = outcome["values"], outcome["lock"]
    assert len(found) == 2
    return found


def slots(clone):
    """{pid: command line} of the slots that are alive."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (folder / "cmdline").read_bytes().decode().split("\0")
            if "flows.sweep.slot" in command and str(clone.root) in command:
                found[int(folder.name)] = command
    return found


def parent(pid):
    """The pid of the parent of a process."""
    return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])


def copy_on(clone, node):
    """The copy in which the slot on a node of the cluster works, if it has started."""
    raylet = node.all_processes["raylet"][0].process.pid
    copies = [Path(command[4]) for pid, command in slots(clone).items() if parent(parent(pid)) == raylet]
    return copies[0] if copies else None


def checkpoints(clone, copy):
    """The folder of the checkpoints of the pretraining that goes on in a copy; None if none does."""
    lock = copy / ".pretune" / "locks" / "pretrain.lock"
    with contextlib.suppress(PretuneError):
        if lock.is_file() and lock.read_text(encoding="utf-8"):
            return checkpoint_folder(clone.state, Workspace(copy).entry("pretrain"))
    return None


@pytest.mark.slow
def test_a_sweep_on_two_nodes_is_killed_and_resumed_to_what_one_machine_finds(named, clone, expected):
    """Both nodes take part; with the sweep their slots die; the same values and dvc.lock of each run; no copy stays."""
    address = {workers.CLUSTER: named.address}
    sweep = clone.start("-m", "cli.app", *SWEEP, **SETTINGS, **address)
    every = [named.head_node, *named.worker_nodes]
    clone.wait(lambda: all(copy_on(clone, node) for node in every), "a slot on each node", process=sweep)
    os.kill(sweep.pid, signal.SIGKILL)
    sweep.communicate()
    clone.wait(lambda: not slots(clone), "the end of the slots")
    clone.alone("-m", "cli.app", "sweep", "resume", "rates", **SETTINGS, **address)
    assert outcomes(clone) == expected
    assert not list((clone.state / "sweeps" / "rates" / "slots").glob("*/"))


@pytest.mark.slow
def test_the_trial_of_a_node_that_is_lost_goes_on_elsewhere(named, clone, expected):
    """From its checkpoint, on the node that another trial leaves; with the same values and dvc.lock."""
    lost = next(iter(named.worker_nodes))
    sweep = clone.start("-m", "cli.app", *SWEEP, **SETTINGS, **{workers.CLUSTER: named.address})
    copy = clone.wait(lambda: copy_on(clone, lost), "a slot on the node", process=sweep)
    folder = clone.wait(lambda: checkpoints(clone, copy), "the key of its checkpoints", process=sweep)
    clone.wait(lambda: list(folder.glob("step-*[0-9]")), "a checkpoint", process=sweep)
    named.remove_node(lost, allow_graceful=False)
    printed = sweep.communicate(timeout=300)[0]
    assert sweep.returncode == 0, printed
    assert "goes on from its checkpoint" in printed
    assert outcomes(clone) == expected
    assert not list((clone.state / "sweeps" / "rates" / "slots").glob("*/"))


@pytest.mark.slow
def test_nodes_that_differ_are_refused_all_at_once(named, tmp_path, params, monkeypatch):
    """Another version, and a workspace that is not seen, on every node; with the next command."""
    (tmp_path / "params.yaml").write_text("seed: 1\n", encoding="utf-8")
    here, versions, contents = os.getpid(), relay.versions, relay.contents
    monkeypatch.setattr(relay, "versions", lambda names: versions(names) | {"torch": str(os.getpid() == here)})
    monkeypatch.setattr(
        relay, "contents", lambda paths: contents(paths) if os.getpid() == here else dict.fromkeys(paths, "")
    )
    joined = Cluster.connect(tmp_path, tmp_path / ".pretune" / "sweeps" / "rates")
    with pytest.raises(WorkspaceError) as caught:
        joined.shares(STAGE, params, None)
    problems = caught.value.problems
    assert sum("has torch False; here there is True" in line for line in problems) == 2
    assert sum(f"does not see {tmp_path} of this machine" in line for line in problems) == 2
    assert "pretune sweep resume rates" in caught.value.next_step
    assert not list(tmp_path.rglob("cluster-*"))


def described(**resources):
    """A node as `ray.nodes()` describes it."""
    return {"NodeID": "1", "Alive": True, "Resources": resources}


def test_as_many_trials_as_nodes_have_room_for():
    """A trial is on one node: two nodes of three cores have room for two trials of two cores, not for three."""
    nodes = [described(CPU=3.0, memory=9e9), described(CPU=3.0, memory=9e9)]
    assert [Place(2, 0).fits(node) for node in nodes] == [1, 1]
    assert Place(1, 0, int(4e9)).fits(nodes[0]) == 2
    assert Place(1, 1).fits(nodes[0]) == 0
    assert Place(1, 2).fits(described(CPU=16.0, GPU=8.0)) == 4
    assert Place(1, 0).fits(nodes[0] | {"Alive": False}) == 0


def test_a_trial_takes_no_more_than_the_largest_node_has():
    """Cores and memory, as on one machine; GPUs are not made fewer."""
    nodes = [described(CPU=2.0, memory=8e9), described(CPU=4.0, GPU=1.0, memory=4e9)]
    assert cluster._place(nodes, Resources(16), 100.0) == Place(4, 0, int(8e9))
    assert cluster._place(nodes, Resources(2, 2), 100.0) == Place(1, 2, 0)


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
