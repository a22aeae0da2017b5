from __future__ import annotations

import json
import os
import signal
import socket
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from safetensors.torch import load_file

pytestmark = pytest.mark.slow
STAGE = ["-m", "tasks", "pretrain"]
FOREVER = 100_000  # steps


CONFTEST = str(Path(__file__).with_name("conftest.py"))
clones = next(module for module in list(sys.modules.values()) if getattr(module, "__file__", None) == CONFTEST)


@pytest.fixture
def clone(prepared, tmp_path):
    """A copy of it for one test."""
    copied = clones.copy_clone(prepared, tmp_path)
    yield copied
    copied.end_all()


def start(clone, *arguments, **env):
    """Start a command, and wait until it trains."""
    main = clone.start(*(arguments or STAGE), **env)
    clone.wait(clone.is_training, "training", process=main)
    return main


def end(clone, main, code):
    """Wait for the end of the command and of all that it has started; return what it printed."""
    printed = main.communicate(timeout=clones.TIMEOUT)[0]
    assert main.returncode == code, printed
    clone.wait_for_end()
    assert clone.leftovers() == []
    return printed


def newest(clone):
    """The record of the last run of `pretrain`."""
    return [run for run in clone.records() if run.info.run_name == "pretrain"][-1]


def learnt(clone):
    """Weights and curve of the stage."""
    curve = (clone.root / "reports/curves/pretrain.csv").read_text(encoding="utf-8").splitlines()
    return load_file(clone.root / "models/pretrained/model.safetensors"), curve


def test_two_processes_do_what_one_does(clone, prepared, tmp_path):
    """Sharded or not: one record, one entry in dvc.lock, each message once, and the model and curve of one process."""
    clone.set(launch__strategy="fsdp")
    printed = clone.alone(*STAGE)
    (run,) = [run for run in clone.records() if run.info.run_name == "pretrain"]
    assert run.info.status == "FINISHED"
    assert {"loss", "validation_loss", "train_loss", "tokens_per_second", "seconds"} <= run.data.metrics.keys()
    assert clone.locked()["pretrain"]["params"]["params.yaml"]["launch.strategy"] == "fsdp"
    lines = printed.splitlines()
    assert lines[-1] == "pretrain: done, recorded in dvc.lock"
    assert len(lines) == len(set(lines))
    assert not list((clone.state / "checkpoints").iterdir())
    assert not list((clone.state / "launch").iterdir())
    one = clones.copy_clone(prepared, tmp_path / "one")
    one.set(launch__processes=1)
    one.run(*STAGE)
    (weights, curve), (expected, curve_of_one) = learnt(clone), learnt(one)
    assert [line.split(",")[0] for line in curve] == [line.split(",")[0] for line in curve_of_one]
    assert weights.keys() == expected.keys()
    assert max((weight - expected[name]).abs().max().item() for name, weight in weights.items()) < 1e-4
    names = [sorted(p.name for p in (each.root / "models/pretrained").iterdir()) for each in (clone, one)]
    assert names[0] == names[1]


def test_sigterm_stops_all_with_a_checkpoint_from_which_one_process_goes_on(clone):
    """143 and one message with the step; the next run begins there, in however many processes."""
    clone.set(pretrain__steps=FOREVER, pretrain__evaluate_every=0, finetune__evaluate_every=0)
    main = start(clone)
    main.terminate()
    error, step = end(clone, main, 143).splitlines()[-2:]
    assert error.startswith("error: stopped by SIGTERM after step ")
    assert step.startswith("next:  pretune run")
    assert newest(clone).info.status == "KILLED"
    (saved,) = (clone.state / "checkpoints").glob("*/step-*")
    assert f"after step {int(saved.name[5:])} of" in error
    clone.set(launch__processes=1)
    main = start(clone)
    main.terminate()
    end(clone, main, 143)
    steps = [int(path.name[5:]) for path in (clone.state / "checkpoints").glob("*/step-*")]
    assert max(steps) > int(saved.name[5:]) == min(steps)
    first = clone.client()[0].get_metric_history(newest(clone).info.run_id, "loss")[0]
    assert first.step > int(saved.name[5:])


def test_nothing_outlives_dvc(clone):
    """A kill -9 of dvc takes the stage, torchrun and both processes with it."""
    clone.set(pretrain__steps=FOREVER, pretrain__evaluate_every=0, finetune__evaluate_every=0)
    main = start(clone, "-m", "dvc", "repro", "pretrain")
    assert len([command for command in clone.processes().values() if command.endswith("-m tasks pretrain")]) == 3
    main.kill()
    end(clone, main, -signal.SIGKILL)


def test_a_killed_process_ends_the_stage(clone):
    """As by want of memory: the other is stopped, the message says which was killed and which file has the rest."""
    clone.set(pretrain__steps=FOREVER, pretrain__evaluate_every=0, finetune__evaluate_every=0)
    main = start(clone)
    os.kill(max(pid for pid, command in clone.processes().items() if "-u -m tasks" in command), signal.SIGKILL)
    printed = end(clone, main, 1)
    assert "was killed (is there enough memory?)" in printed
    assert str(clone.state / "logs" / "pretrain.workers.log") in printed
    assert newest(clone).info.status == "FAILED"


def test_two_machines(clone):
    """Each is given its number; the first records and publishes, the second says nothing."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = f"127.0.0.1:{free.getsockname()[1]}"
    clone.set(launch__processes=1, launch__nodes=2, launch__rendezvous=meeting)
    local = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
    machines = [clone.start(*STAGE, PRETUNE_NODE_RANK=str(number), **local) for number in range(2)]
    first, second = (end(clone, machine, 0) for machine in machines)
    assert first.splitlines()[-1] == "pretrain: done, recorded in dvc.lock"
    assert second == ""
    assert "pretrain" in clone.locked()
    assert json.loads((clone.state / "stages" / "pretrain.json").read_text(encoding="utf-8"))["status"] == "FINISHED"


@pytest.mark.nightly  # its parts are tested in tests/tasks/test_kubernetes_engine.py
def test_two_pods(clone):
    """Handed over: a manifest, no record. What its pods run, with the operator's variables, trains and publishes."""
    options = {"image": "pretune:1", "claim": "work"}
    clone.set(launch__processes=1, launch__nodes=2, launch__engine="kubernetes", launch__options=options)
    printed = clone.run(*STAGE, code=9)
    assert "launch.engine is kubernetes: pretrain has not been trained" in printed
    assert "pretrain" not in [run.info.run_name for run in clone.records()]
    job = YAML(typ="safe").load(clone.state / "launch" / "pretrain.yaml")
    pods = job["spec"]["pytorchReplicaSpecs"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        operators = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    local = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
    commands = [pods[kind]["template"]["spec"]["containers"][0]["command"] for kind in ("Master", "Worker")]
    started = [
        clone.start(*command[1:], RANK=str(number), **operators, **local) for number, command in enumerate(commands)
    ]
    printed, nothing = (end(clone, pod, 0) for pod in started)
    assert printed.splitlines()[-1] == "pretrain: done, recorded in dvc.lock"
    assert nothing == ""
    assert "pretrain" in clone.locked()
