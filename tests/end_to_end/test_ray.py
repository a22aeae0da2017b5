"""Training on a Ray cluster with two nodes in network namespaces: one lost, stopped, killed, refused."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import tempfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
STAGE = ["-m", "tasks", "pretrain"]


CONFTEST = str(Path(__file__).with_name("conftest.py"))
clones = next(module for module in list(sys.modules.values()) if getattr(module, "__file__", None) == CONFTEST)
SPEC = importlib.util.spec_from_file_location("ray_machines", Path(__file__).with_name("ray_machines.py"))
machines = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(machines)


@pytest.fixture(scope="module")
def cluster():
    """The cluster."""
    if why := machines.missing():
        pytest.skip(why)
    with tempfile.TemporaryDirectory(prefix="ray") as folder:  # a short path: sockets lie in it
        running = machines.Ray(Path(folder))
        yield running
        running.close()


@pytest.fixture
def clone(prepared, tmp_path):
    """A clone whose `pretrain` comes next, on two machines, with as many checkpoints as possible."""
    copied = clones.copy_clone(prepared, tmp_path)
    copied.set(pretrain__steps=clones.LONG, launch__engine="ray", launch__nodes=2, launch__processes=1)
    copied.checkpoint_always()
    yield copied
    copied.end_all()


def forever(clone):
    """Have it train until it is stopped."""
    clone.set(pretrain__steps=100_000, pretrain__evaluate_every=0)


def start(clone, cluster):
    """Start the stage, and wait until it has a checkpoint."""
    main = clone.start(*STAGE, **cluster.environment)
    clone.wait(lambda: list(clone.state.glob("checkpoints/*/step-*[0-9]")), "a checkpoint", process=main)
    return main


def trainers(clone, cluster):
    """What trains on the nodes."""
    pids = [pid for name in machines.NODES for pid in cluster.pids(name)]
    return [pid for pid in pids if "tasks pretrain" in command(pid)]


def command(pid):
    """The command line of a process; "" once it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def test_a_lost_node_leaves_the_bytes_of_this_machine(clone, cluster, trained):
    """Without a word: its cable is cut. Training waits for another node, and goes on from its checkpoint."""
    main = start(clone, cluster)
    cluster.lose("two")
    cluster.add("two")
    printed = main.communicate(timeout=clones.TIMEOUT)[0]
    assert main.returncode == 0, printed
    assert "the cluster lost a machine of pretrain" in printed
    assert "again, from the last checkpoint" in printed
    assert printed.splitlines()[-1] == "pretrain: done, recorded in dvc.lock"
    assert clone.locked()["pretrain"]["outs"] == trained.locked()["pretrain"]["outs"]
    assert not list((clone.state / "launch").iterdir())


@pytest.mark.nightly  # what the agents do is what they do under Slurm
def test_one_ctrl_c_stops_all_nodes_with_a_checkpoint(clone, cluster):
    """130, and nothing is left on the nodes."""
    forever(clone)
    main = start(clone, cluster)
    assert len(trainers(clone, cluster)) >= 2
    main.send_signal(signal.SIGINT)
    printed = main.communicate(timeout=clones.TIMEOUT)[0]
    assert main.returncode == 130, printed
    assert not trainers(clone, cluster)


def test_nothing_on_the_nodes_outlives_the_command(clone, cluster):
    """After a kill -9 of it."""
    forever(clone)
    main = start(clone, cluster)
    os.kill(main.pid, signal.SIGKILL)
    main.communicate()
    clone.wait(lambda: not trainers(clone, cluster), "the end of all processes on the nodes")


def test_too_few_nodes_are_told_before_anything_starts(clone, cluster):
    """With what each would need, and how many have it."""
    clone.set(launch__nodes=4)
    printed = clone.run(*STAGE, code=9, **cluster.environment)
    assert "launch.nodes is 4, and the cluster has 2 nodes with 1 CPU" in printed
