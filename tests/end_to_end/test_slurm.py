"""Training as a job of a real Slurm with two machines: preempted, cancelled, refused."""

from __future__ import annotations

import importlib.util
import signal
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
STAGE = ["-m", "tasks", "pretrain"]


CONFTEST = str(Path(__file__).with_name("conftest.py"))
clones = next(module for module in list(sys.modules.values()) if getattr(module, "__file__", None) == CONFTEST)
SPEC = importlib.util.spec_from_file_location("slurm_machines", Path(__file__).with_name("slurm_machines.py"))
machines = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(machines)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """The cluster."""
    if missing := machines.missing():
        pytest.skip(f"no Slurm on this machine: {', '.join(missing)} (Debian: apt install slurm-wlm)")
    cluster = machines.Slurm(tmp_path_factory.mktemp("slurm"))
    yield cluster
    cluster.close()


@pytest.fixture
def clone(prepared, tmp_path):
    """A clone whose `pretrain` comes next, as a job in two processes."""
    copied = clones.copy_clone(prepared, tmp_path)
    copied.set(pretrain__steps=clones.LONG, launch__engine="slurm")
    yield copied
    copied.end_all()


def start(clone, slurm):
    """Start the stage, and wait until it trains."""
    main = clone.start(*STAGE, **slurm.environment)
    clone.wait(clone.is_training, "training", process=main)
    return main


def end(clone, main, slurm):
    """Let queued jobs begin until the command ends; what it printed."""
    clone.wait(lambda: slurm.release() or main.poll() is not None, "the end")
    clone.wait_for_end()
    assert clone.leftovers() == []
    assert not slurm.jobs()
    assert not list((clone.state / "launch").iterdir())
    return main.communicate()[0]


def test_a_preempted_job_leaves_the_bytes_of_this_machine(clone, slurm, trained):
    """It saves, is queued again and goes on. dvc.lock does not tell which engine it was."""
    main = start(clone, slurm)
    slurm.preempt()
    clone.wait(lambda: "PENDING" in slurm.jobs().values(), "preemption", process=main)
    printed = end(clone, main, slurm)
    assert main.returncode == 0, printed
    assert "again, from the last checkpoint" in printed
    assert printed.splitlines()[-1] == "pretrain: done, recorded in dvc.lock"
    assert clone.hashes("pretrain") == trained.hashes("pretrain")
    curve = clone.client()[0].get_metric_history(clone.records()[-1].info.run_id, "loss")
    assert len({point.step for point in curve}) == len(curve), "a step is told once"


@pytest.mark.nightly  # srun gives a machine up after half a minute; test_ray.py loses one in the normal run
def test_a_machine_lost_in_mid_training_leaves_the_same_bytes(clone, slurm, trained):
    """Both train one model; one loses its power. The job is queued again, and goes on from its last checkpoint."""
    clone.set(launch__processes=1, launch__nodes=2)
    clone.checkpoint_always()
    main = start(clone, slurm)
    clone.wait(lambda: list(clone.state.glob("checkpoints/*/step-*[0-9]")), "a checkpoint", process=main)
    slurm.lose("two")
    printed = end(clone, main, slurm)
    assert main.returncode == 0, printed
    assert "again, from the last checkpoint" in printed
    assert clone.locked()["pretrain"]["outs"] == trained.locked()["pretrain"]["outs"]


def test_one_ctrl_c_stops_the_job_with_a_checkpoint(clone, slurm):
    """130, and nothing is left in the queue."""
    clone.set(pretrain__steps=100_000, pretrain__evaluate_every=0)
    main = start(clone, slurm)
    main.send_signal(signal.SIGINT)
    printed = end(clone, main, slurm)
    assert main.returncode == 130, printed
    assert list((clone.state / "checkpoints").glob("*/step-*"))


def test_what_slurm_refuses_is_told_with_its_reason(clone, slurm):
    """Options that sbatch does not know, before anything is left behind."""
    clone.set(launch__options={"partition": "none"})
    printed = clone.alone(*STAGE, code=9, **slurm.environment)
    assert "error: Slurm refuses the job: " in printed
    assert "invalid partition" in printed
    assert "launch.options" in printed
