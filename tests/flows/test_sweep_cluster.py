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
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from flows.schedule import Resources
from flows.sweep import cluster
from flows.sweep.cluster import Cluster, Place
from pretune.cluster import connection
from pretune.cluster import nodes as cluster_nodes
from pretune.errors import PretuneError, WorkspaceError
from pretune.lineage.graph import Node, Workspace
from pretune.runtime.stage import checkpoint_folder

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # Ray drops processes that it has sent a signal
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0"}
TIMEOUT = 300  # seconds after which a sweep counts as hung
TRIES = 3  # Ray gives a node's helpers 15 seconds to start, which they can miss on a busy machine
SWEEP = ["sweep", "pretrain.learning_rate=1e-3,3e-3", "--metric", "pretrain.loss", "--name", "rates"]
STAGE = Node("finetune", "", [], ["threads"], [], [], {})


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
    monkeypatch.setenv(connection.CLUSTER, nodes.address)
    return nodes


@pytest.fixture(scope="module")
def clones():
    """The module that makes clones, tests/end_to_end/conftest.py, with its warm process if tests there have run."""
    path = Path(__file__).parents[1] / "end_to_end" / "conftest.py"
    for known in list(sys.modules.values()):
        if getattr(known, "__file__", None) == str(path):
            return known
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
    clone.checkpoint_always()
    clone.pretune("run", "prepare", "--no-prefect")
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
    clone.pretune(*SWEEP, "--parallel", "1")
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
def test_a_sweep_that_is_killed_and_then_loses_a_node_finds_what_one_machine_finds(named, clone, expected):
    """With the sweep its slots die. Resumed, the trial of a lost node goes on from its checkpoint on the other one.

    Both nodes take part; the same values and dvc.lock of each run as without a cluster; no copy stays.
    """
    lost, address = next(iter(named.worker_nodes)), {connection.CLUSTER: named.address}
    sweep = clone.start("-m", "cli.app", *SWEEP, **SETTINGS, **address)
    for node in (named.head_node, lost):
        clone.wait(partial(copy_on, clone, node), "a slot on each node", process=sweep)
    os.kill(sweep.pid, signal.SIGKILL)
    sweep.communicate()
    clone.wait(lambda: not slots(clone), "the end of the slots")
    sweep = clone.start("-m", "cli.app", "sweep", "resume", "rates", **SETTINGS, **address)
    copy = clone.wait(lambda: copy_on(clone, lost), "a slot on the node", process=sweep)
    folder = clone.wait(lambda: checkpoints(clone, copy), "the key of its checkpoints", process=sweep)
    clone.wait(lambda: list(folder.glob("step-*[0-9]")), "a checkpoint", process=sweep)
    named.remove_node(lost, allow_graceful=False)
    printed = sweep.communicate(timeout=TIMEOUT)[0]
    assert sweep.returncode == 0, printed
    assert "goes on from its checkpoint" in printed
    assert outcomes(clone) == expected
    assert not list((clone.state / "sweeps" / "rates" / "slots").glob("*/"))


@pytest.mark.slow
def test_nodes_that_differ_are_refused_all_at_once(named, tmp_path, params, monkeypatch):
    """Another version, and a workspace that is not seen, on every node; with the next command."""
    (tmp_path / "params.yaml").write_text("seed: 1\n", encoding="utf-8")
    here, versions, contents = os.getpid(), cluster_nodes.versions, cluster_nodes.contents
    monkeypatch.setattr(cluster_nodes, "versions", lambda names: versions(names) | {"torch": str(os.getpid() == here)})
    monkeypatch.setattr(
        cluster_nodes, "contents", lambda paths: contents(paths) if os.getpid() == here else dict.fromkeys(paths, "")
    )
    joined = Cluster.connect(tmp_path, tmp_path / ".pretune" / "sweeps" / "rates")
    with pytest.raises(WorkspaceError) as caught:
        joined.shares(STAGE, params, None)
    problems = caught.value.problems
    assert sum("has torch False; here there is True" in line for line in problems) == 2
    assert sum(f"does not see {tmp_path} of this machine" in line for line in problems) == 2
    assert "pretune sweep resume rates" in caught.value.next_step
    assert not list(tmp_path.rglob("cluster-*"))


def test_a_trial_does_not_train_on_several_nodes(tmp_path, params):
    """`launch.engine: ray` would wait for nodes that the trials have."""
    ray = SimpleNamespace(cloudpickle=SimpleNamespace(register_pickle_by_value=lambda _: None))
    on_ray = params.model_copy(update={"launch": params.launch.model_copy(update={"engine": "ray"})})
    with pytest.raises(WorkspaceError, match="trained on one node") as caught:
        Cluster(ray, tmp_path, tmp_path / "rates").shares(STAGE, on_ray, None)
    assert "launch.engine: local" in caught.value.next_step


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
