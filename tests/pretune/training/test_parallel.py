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
]
STOP = 7  # the step in which SIGTERM arrives
STOPPED = [
    Case(MASKED, stop=STOP, folder="ddp"),
    Case(CLASSES, strategy="fsdp", stop=STOP, folder="fsdp"),
    Case(TIED, strategy="fsdp", stop=STOP, folder="best", metric_for_best_model="loss"),
    Case(CAUSAL, optimizer="muon", stop=STOP, folder="dropout", dropout=0.1),
    Case(CLASSES, adaptation="lora", stop=STOP, folder="lora"),
    Case(CLASSES, adaptation="gradual", strategy="fsdp", stop=STOP, folder="gradual"),
]
BY_ONE = [
    Case(MASKED, stop=STOP, folder="one-ddp"),
    Case(TIED, strategy="fsdp", stop=STOP, folder="one-fsdp", metric_for_best_model="loss"),
]
SPOILT = [Case(CLASSES, spoil=5), Case(CLASSES, spoil=5, strategy="fsdp")]


def resumed(case):
    """The training that goes on from where `case` was stopped."""
    return replace(case, stop=0)


def undisturbed(case):
    """The same training, never stopped."""
    return replace(case, stop=0, folder="")


def otherwise(case):
    """The same training with the other strategy."""
    return replace(case, strategy="ddp" if case.strategy == "fsdp" else "fsdp")


def by_one(case):
    """The same training in one process, which takes each step's rows at once."""
    return replace(case, strategy="ddp", gradient_accumulation_steps=1, checkpointing=False)


FIXED = [case for case in STOPPED if not case.dropout]  # dropout is drawn in each process for itself
IN_TWO = [
    *SHARED, *SPOILT, *STOPPED, *map(resumed, STOPPED), *map(undisturbed, STOPPED),
    *(otherwise(resumed(case)) for case in FIXED), *map(resumed, BY_ONE),
]  # fmt: skip


def launch(cases, folder):
    """Train the cases in two processes that know of each other, as torchrun would start them."""
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
    """Where the trainings of IN_TWO, and those of BY_ONE before them, left checkpoints and what came of them."""

    def train(folder):
        for case in BY_ONE:
            assert ranks.learn(case, folder)["exit_code"] == 143
        launch(IN_TWO, folder)

    return once("parallel", train)


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    """A copy of it, in which one process goes on."""
    return shutil.copytree(trained, tmp_path_factory.mktemp("parallel") / "copy")


@pytest.fixture(scope="module")
def alone(folder):
    """A function that trains a case in this process, once, and says what came of it."""
    known = {}

    def learn(case):
        if case not in known:
            known[case] = ranks.learn(case, folder)
        return known[case]

    return learn


@pytest.fixture(scope="module")
def both(trained):
    """What came of every case of IN_TWO, for each of the two processes. They start once: it takes seconds."""
    return [
        dict(zip(IN_TWO, pickle.loads((trained / f"found-{rank}.pickle").read_bytes()), strict=True))  # noqa: S301 - ours
        for rank in range(2)
    ]


def assert_same(found, expected, tolerance):
    """Curve, validation and weights differ by rounding."""
    assert [step for step, _ in found["losses"]] == [step for step, _ in expected["losses"]]
    losses = [loss for _, loss in expected["losses"]]
    assert [loss for _, loss in found["losses"]] == pytest.approx(losses, abs=tolerance / 10)
    assert [step for step, _ in found["validations"]] == [step for step, _ in expected["validations"]]
    for (_, one), (_, other) in zip(found["validations"], expected["validations"], strict=True):
        assert one == pytest.approx(other, abs=tolerance)
    assert found["weights"].keys() == expected["weights"].keys()
    for name, weight in expected["weights"].items():
        torch.testing.assert_close(found["weights"][name], weight, atol=tolerance, rtol=0, msg=lambda m, n=name: n + m)


def rounding(case):
    """Of weights, after some steps. Muon makes matrices orthogonal in bf16, whose rounding is 2**16 times coarser."""
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
    """Same rows a step, same losses and same weights, but for rounding, into however many parts it is divided."""
    assert_same(both[0][case], alone(by_one(case)), rounding(case))


@pytest.mark.parametrize("case", SHARED, ids=name)
def test_the_processes_agree(case, both):
    """Both tell the same curve; a model for use comes out of the first."""
    first, second = both[0][case], both[1][case]
    assert (first["losses"], first["validations"]) == (second["losses"], second["validations"])
    assert not first["training"]


@pytest.mark.parametrize("case", STOPPED, ids=name)
def test_sigterm_to_one_process_stops_both_with_a_checkpoint(case, both, folder):
    """They end after the same step, with the same error, and leave one checkpoint with a part from each."""
    for found in (process[case] for process in both):
        assert found == {"error": f"stopped by SIGTERM after step {STOP} of 12", "exit_code": 143}
    (saved,) = (folder / case.folder).iterdir()
    assert saved.name == f"step-{STOP:08d}"
    assert len(list(saved.glob("*.safetensors"))) == 2


@pytest.mark.parametrize("case", STOPPED, ids=name)
def test_two_go_on_from_two_bit_for_bit(case, both):
    """Dropout included: nothing tells a run that was stopped from one that was not."""
    found, expected = both[0][resumed(case)], both[0][undisturbed(case)]
    assert (found["steps"], expected["steps"]) == (12 - STOP, 12)
    assert (found["losses"], found["validations"]) == (expected["losses"], expected["validations"])
    assert all(torch.equal(found["weights"][key], weight) for key, weight in expected["weights"].items())


@pytest.mark.parametrize("case", FIXED, ids=name)
def test_one_goes_on_from_two(case, both, alone):
    """What two processes have saved, whole or sharded, one takes up."""
    assert case in both[0]
    assert alone(by_one(resumed(case)))["steps"] == 12 - STOP
    assert_same(alone(by_one(resumed(case))), alone(by_one(undisturbed(case))), rounding(case))


@pytest.mark.parametrize("case", BY_ONE, ids=name)
def test_two_go_on_from_one(case, both, alone):
    """What one process has saved, two take up, whole or sharded."""
    assert both[0][resumed(case)]["steps"] == 12 - STOP
    assert_same(both[0][resumed(case)], alone(by_one(undisturbed(case))), rounding(case))


@pytest.mark.parametrize("case", FIXED, ids=name)
def test_one_strategy_goes_on_from_the_other(case, both, alone):
    """From ddp to fsdp and from fsdp to ddp."""
    assert both[0][otherwise(resumed(case))]["steps"] == 12 - STOP
    assert_same(both[0][otherwise(resumed(case))], alone(by_one(undisturbed(case))), rounding(case))


@pytest.mark.parametrize("case", SPOILT, ids=name)
def test_a_step_that_is_not_finite_in_one_process_is_skipped_by_both(case, both, alone):
    """The other's loss is finite, but the step is one: the run goes on as one process would."""
    assert (both[0][case]["skipped"], both[1][case]["skipped"]) == (1, 1)
    assert_same(both[0][case], alone(by_one(case)), rounding(case))
