from __future__ import annotations

import importlib.util
import os
import pickle
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).with_name("ranks.py")


def _ranks():
    spec = importlib.util.spec_from_file_location("ranks", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["ranks"] = module
    spec.loader.exec_module(module)
    return module


ranks = _ranks()
Case = ranks.Case
MASKED, TIED, CAUSAL, TIED_CAUSAL = "modernbert-masked", "bert-masked", "llama-causal", "gpt2-causal"
CLASSES, ROBERTA = "modernbert-classes", "roberta-classes"
SHARED = [
    Case(MASKED),
    Case(MASKED, gradient_accumulation_steps=2, checkpointing=True),
    Case(MASKED, optimizer="muon"),
    Case(MASKED, metric_for_best_model="loss", gradient_accumulation_steps=4),
    Case(MASKED, optimizer="muon", strategy="fsdp"),
    Case(MASKED, strategy="fsdp", gradient_accumulation_steps=2),
    Case(MASKED, strategy="fsdp", checkpointing=True),
    Case(TIED, gradient_accumulation_steps=2),
    Case(TIED, strategy="fsdp", gradient_accumulation_steps=2, checkpointing=True),
    Case(CAUSAL, checkpointing=True),
    Case(CAUSAL, strategy="fsdp", gradient_accumulation_steps=2, checkpointing=True),
    Case(TIED_CAUSAL, gradient_accumulation_steps=2),
    Case(TIED_CAUSAL, strategy="fsdp", metric_for_best_model="loss"),
    Case(CLASSES, gradient_accumulation_steps=2),
    Case(CLASSES, strategy="fsdp"),
    Case(ROBERTA, checkpointing=True),
    Case(ROBERTA, strategy="fsdp", gradient_accumulation_steps=2, metric_for_best_model="accuracy"),
    Case(CLASSES, adaptation="lora", gradient_accumulation_steps=2),
    Case(CLASSES, adaptation="lora", strategy="fsdp", metric_for_best_model="loss"),
    Case(CLASSES, adaptation="dora", strategy="fsdp"),
    Case(ROBERTA, adaptation="head", checkpointing=True),
    Case(CLASSES, adaptation="head", strategy="fsdp", gradient_accumulation_steps=2),
    Case(CLASSES, adaptation="gradual", gradient_accumulation_steps=2),
    Case(ROBERTA, adaptation="gradual", strategy="fsdp"),
    Case(CAUSAL, optimizer="muon", adaptation="lora", strategy="fsdp"),
]
STOP = 7  # the step in which SIGTERM arrives
STOPPED = [
    Case(MASKED, stop=STOP, folder="ddp"),
    Case(CLASSES, strategy="fsdp", stop=STOP, folder="fsdp"),
    Case(TIED, strategy="fsdp", stop=STOP, folder="best", metric_for_best_model="loss"),
    Case(CAUSAL, optimizer="muon", stop=STOP, folder="dropout", dropout=0.1),
    Case(CAUSAL, optimizer="muon", strategy="fsdp", stop=STOP, folder="muon"),
    Case(CLASSES, adaptation="lora", stop=STOP, folder="lora"),
    Case(CLASSES, adaptation="gradual", strategy="fsdp", stop=STOP, folder="gradual"),
]
BY_ONE = [
    Case(MASKED, stop=STOP, folder="one-ddp"),
    Case(TIED, strategy="fsdp", stop=STOP, folder="one-fsdp", metric_for_best_model="loss"),
]
SPOILT = [Case(CLASSES, spoil=5), Case(CLASSES, spoil=5, strategy="fsdp")]


def resumed(case):
    """The training that resumes the stopped `case`."""
    return replace(case, stop=0)


def undisturbed(case):
    """The same training without a stop."""
    return replace(case, stop=0, folder="")


def otherwise(case):
    """The same training with the other strategy."""
    return replace(case, strategy="ddp" if case.strategy == "fsdp" else "fsdp")


def by_one(case):
    """The same training in one process, with one batch a step."""
    return replace(case, strategy="ddp", gradient_accumulation_steps=1, checkpointing=False)


FIXED = [case for case in STOPPED if not case.dropout]  # each process draws its own dropout
IN_TWO = list(dict.fromkeys([
    *SHARED, *SPOILT, *STOPPED, *map(resumed, STOPPED), *map(undisturbed, STOPPED),
    *(otherwise(resumed(case)) for case in FIXED), *map(resumed, BY_ONE),
]))  # fmt: skip


def launch(cases, folder):
    """Train the cases in a group of two processes, as torchrun would start them."""
    (folder / "cases.pickle").write_bytes(pickle.dumps(cases))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    common |= {"PYTHONPATH": str(SCRIPT.parents[3]), "GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0"}
    command = [sys.executable, "-W", "error::FutureWarning", str(SCRIPT), str(folder)]
    children = [subprocess.Popen(command, env=os.environ | common | {"RANK": str(rank)}) for rank in range(2)]
    try:
        codes = [child.wait(300) for child in children]
    finally:
        for child in children:
            child.kill()
    assert codes == [0, 0]


@pytest.fixture(scope="module")
def trained(once):
    """The folder with checkpoints and results of the trainings of BY_ONE, then those of IN_TWO."""

    def train(folder):
        for case in BY_ONE:
            assert ranks.learn(case, folder)["exit_code"] == 143
        launch(IN_TWO, folder)

    return once("parallel", train)


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    """A copy of it, in which one process resumes."""
    return shutil.copytree(trained, tmp_path_factory.mktemp("parallel") / "copy")


@pytest.fixture(scope="module")
def alone(folder):
    """A function that trains a case in this process, once; it returns the results."""
    known = {}

    def learn(case):
        if case not in known:
            known[case] = ranks.learn(case, folder)
        return known[case]

    return learn


@pytest.fixture(scope="module")
def both(trained):
    """The results of all cases of IN_TWO, for both processes. They start once, for that takes seconds."""
    return [
        dict(zip([*IN_TWO, "muon"], pickle.loads((trained / f"results-{rank}.pickle").read_bytes()), strict=True))  # noqa: S301 - ours
        for rank in range(2)
    ]


def assert_same(result, expected, tolerance):
    """Curve, validation and weights are equal up to rounding."""
    assert [step for step, _ in result["losses"]] == [step for step, _ in expected["losses"]]
    losses = [loss for _, loss in expected["losses"]]
    assert [loss for _, loss in result["losses"]] == pytest.approx(losses, abs=tolerance / 10)
    assert [step for step, _ in result["validations"]] == [step for step, _ in expected["validations"]]
    for (_, one), (_, other) in zip(result["validations"], expected["validations"], strict=True):
        assert one == pytest.approx(other, abs=tolerance)
    assert result["weights"].keys() == expected["weights"].keys()
    for name, weight in expected["weights"].items():
        torch.testing.assert_close(result["weights"][name], weight, atol=tolerance, rtol=0, msg=lambda m, n=name: n + m)


def rounding(case):
    """Rounding error of weights after some steps; Muon computes in bf16, which rounds 2**16 times coarser."""
    return 1e-3 if case.optimizer == "muon" else 1e-5


def name(case):
    """The case as a test's name."""
    shown = [
        case.task,
        case.strategy,
        f"gradient_accumulation_steps{case.gradient_accumulation_steps}",
        case.optimizer,
        case.metric_for_best_model,
    ]
    return "-".join([*shown, *(["checkpointing"] if case.checkpointing else []), case.adaptation])


@pytest.mark.parametrize("case", SHARED, ids=name)
def test_two_processes_learn_what_one_learns(case, both, alone):
    """Losses and weights are the same up to rounding, for any number of parts of a step."""
    assert_same(both[0][case], alone(by_one(case)), rounding(case))


@pytest.mark.parametrize("case", SHARED, ids=name)
def test_the_processes_agree(case, both):
    """Both report the same curve; the first returns the model in eval mode."""
    first, second = both[0][case], both[1][case]
    assert (first["losses"], first["validations"]) == (second["losses"], second["validations"])
    assert not first["training"]


@pytest.mark.parametrize("case", STOPPED, ids=name)
def test_sigterm_to_one_process_stops_both_with_a_checkpoint(case, both, folder):
    """They end after the same step, with the same error, and write one checkpoint with a shard of each."""
    for result in (process[case] for process in both):
        assert result == {"error": f"stopped by SIGTERM after step {STOP} of 12", "exit_code": 143}
    (saved,) = (folder / case.folder).iterdir()
    assert saved.name == f"step-{STOP:08d}"
    assert len(list(saved.glob("*.safetensors"))) == 2


@pytest.mark.parametrize("case", STOPPED, ids=name)
def test_two_resume_from_two_bit_for_bit(case, both):
    """With dropout; the results are those of an uninterrupted run."""
    result, expected = both[0][resumed(case)], both[0][undisturbed(case)]
    assert (result["steps"], expected["steps"]) == (12 - STOP, 12)
    assert (result["losses"], result["validations"]) == (expected["losses"], expected["validations"])
    assert all(torch.equal(result["weights"][key], weight) for key, weight in expected["weights"].items())


@pytest.mark.parametrize("case", FIXED, ids=name)
def test_one_resumes_from_two(case, both, alone):
    """From replicated and from sharded checkpoints."""
    assert case in both[0]
    assert alone(by_one(resumed(case)))["steps"] == 12 - STOP
    assert_same(alone(by_one(resumed(case))), alone(by_one(undisturbed(case))), rounding(case))


@pytest.mark.parametrize("case", BY_ONE, ids=name)
def test_two_resume_from_one(case, both, alone):
    """With replicated and with sharded models."""
    assert both[0][resumed(case)]["steps"] == 12 - STOP
    assert_same(both[0][resumed(case)], alone(by_one(undisturbed(case))), rounding(case))


@pytest.mark.parametrize("case", FIXED, ids=name)
def test_one_strategy_resumes_from_the_other(case, both, alone):
    """From ddp to fsdp and from fsdp to ddp."""
    assert both[0][otherwise(resumed(case))]["steps"] == 12 - STOP
    assert_same(both[0][otherwise(resumed(case))], alone(by_one(undisturbed(case))), rounding(case))


@pytest.mark.parametrize("case", SPOILT, ids=name)
def test_a_step_that_is_not_finite_in_one_process_is_skipped_by_both(case, both, alone):
    """Though the loss of the other is finite: the results are those of one process."""
    assert (both[0][case]["skipped"], both[1][case]["skipped"]) == (1, 1)
    assert_same(both[0][case], alone(by_one(case)), rounding(case))


def test_muon_gives_sharded_matrices_the_bits_of_whole_ones(both):
    """Of any number and any number of rows."""
    whole = ranks.step_by_muon()
    for process in both:
        assert all(torch.equal(one, other) for one, other in zip(process["muon"], whole, strict=True))
