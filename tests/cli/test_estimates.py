"""What `pretune plan` says of training: which stages are tried out, and how it is told."""

from __future__ import annotations

import shutil
from contextlib import nullcontext

import pytest

from cli import estimates
from pretune.config import params
from pretune.config.overrides import override
from pretune.lineage.graph import Node
from pretune.lineage.plan import Decision
from pretune.models import build
from pretune.objectives.pretraining.masked_lm import MaskedLM

KNOWN = {
    "parameters": 873216,
    "flops_per_step": 6439000000,
    "steps": 900,
    "flops": 5795100000000,
    "memory_gb": 0.61,
    "seconds": 59.3,
    "seconds_per_step": 0.061,
}


@pytest.fixture
def tried(monkeypatch):
    """The stages whose training would be timed; none is."""
    stages = []

    def start(_root, name, later):
        stages.append(" ".join([name, *later]))
        return nullcontext()

    monkeypatch.setattr(estimates, "_start", start)
    monkeypatch.setattr(estimates, "_finish", lambda _: KNOWN)
    return stages


@pytest.fixture
def graph(monkeypatch, tmp_path, params_file):
    """Prepare → pretrain → finetune, the last two of which train; what prepare makes is there."""
    (tmp_path / "prepared").mkdir()
    shutil.copy(params_file, tmp_path / "params.yaml")

    def node(name, deps, outs, upstream, params):
        return Node(name, "", deps, params, outs, upstream, {})

    nodes = {
        "prepare": node("prepare", [], ["prepared"], [], ["prepare"]),
        "pretrain": node(
            "pretrain", ["prepared"], ["models/pretrained"], ["prepare"], ["pretrain", "launch.processes"]
        ),
        "finetune": node(
            "finetune", ["models/pretrained"], ["models/finetuned"], ["pretrain"], ["finetune", "launch.processes"]
        ),
        "label_efficiency": node(
            "label_efficiency", ["prepared"], ["fewer"], ["prepare"], ["finetune", "launch.processes"]
        ),
        "evaluate": node(
            "evaluate", ["models/pretrained", "models/finetuned"], ["reports"], ["pretrain", "finetune"], ["evaluate"]
        ),
    }
    monkeypatch.setattr(estimates, "Workspace", lambda _: type("", (), {"nodes": nodes}))
    return tmp_path


def estimated(root, **actions):
    """Estimates for a plan."""
    messages = []
    found = estimates.estimates(root, [Decision(name, action) for name, action in actions.items()], messages.append)
    return found, messages


def test_a_stage_that_trains_and_can_is_tried_out(graph, tried):
    """And it is said beforehand, for it takes some seconds."""
    found, messages = estimated(graph, prepare="skip", pretrain="run", finetune="run")
    assert tried == ["pretrain"]
    assert found["pretrain"] == KNOWN
    assert found["finetune"] == {"unknown": "it reads what pretrain will make"}
    assert len(messages) == 1


def test_a_checkpoint_that_stays_as_it_is_need_not_be_waited_for(graph, tried, tiny, words):
    """Finetuning is tried out on it: what `pretrain` will make has its weights, whatever an earlier run has left.

    They are not copied. The tokenizer is that of `prepare`; the checkpoint need not have one.
    """
    build.new(MaskedLM, tiny()).save_pretrained(graph / "checkpoint")
    words.save_pretrained(graph / "data" / "prepared" / "tokenizer")
    assigned = ["model.init=checkpoint", "model.config={}", "pretrain.steps=0", "pretrain.objective=masked_lm"]
    override(graph / "params.yaml", assigned, graph / "params.yaml")
    found, _ = estimated(graph, prepare="skip", pretrain="run", finetune="run")
    assert (found["finetune"], tried) == (KNOWN, ["finetune"])
    stage = estimates.DryRunStage(
        graph, estimates.Workspace(graph).nodes["finetune"], params.load(graph / "params.yaml"), graph
    )
    folder = stage.dep("models/pretrained")
    assert (folder / "model.safetensors").readlink() == graph / "checkpoint" / "model.safetensors"
    assert MaskedLM.inputs(folder).get_vocab() == words.get_vocab()
    assert build.load(MaskedLM, folder)[1] == frozenset()
    assert build.inference_config(folder)


def test_evaluation_is_tried_before_its_models_are_trained(graph, tried):
    """With the pretrained model in place of those that will be made, once that is there."""
    found, _ = estimated(graph, pretrain="run", finetune="run", evaluate="run")
    assert found["evaluate"] == {"unknown": "it reads what pretrain will make"}
    (graph / "models" / "pretrained").mkdir(parents=True)
    found, _ = estimated(graph, pretrain="skip", finetune="run", evaluate="run")
    assert (found["evaluate"], tried[-1]) == (KNOWN, "evaluate models/finetuned")
    estimated(graph, pretrain="skip", finetune="skip", evaluate="run")
    assert tried[-1] == "evaluate"


def test_what_will_not_run_is_not_tried_out(graph, tried):
    """Skipped and restored stages cost nothing."""
    assert estimated(graph, prepare="skip", pretrain="skip", finetune="restore") == ({}, [])
    assert tried == []


def test_inputs_that_will_change_or_are_not_there_are_a_reason(graph, tried):
    """It is said what is waited for."""
    found, _ = estimated(graph, prepare="run", pretrain="run")
    assert found["pretrain"] == {"unknown": "it reads what prepare will make"}
    shutil.rmtree(graph / "prepared")
    found, _ = estimated(graph, prepare="skip", pretrain="run")
    assert found["pretrain"] == {"unknown": "prepared is missing"}
    assert tried == []


def test_label_efficiency_is_tried_out_where_there_are_shares(graph, tried):
    """Without shares it trains nothing, and nothing is said of it; share 1 asks for no training either."""
    for shares in ("[]", "[1]"):
        override(graph / "params.yaml", [f"label_efficiency.shares={shares}"], graph / "params.yaml")
        assert estimated(graph, prepare="skip", label_efficiency="run") == ({}, [])
    override(graph / "params.yaml", ["label_efficiency.shares=[0.5, 1]"], graph / "params.yaml")
    found, _ = estimated(graph, prepare="skip", label_efficiency="run")
    assert found == {"label_efficiency": KNOWN}
    assert tried == ["label_efficiency"]


def test_numbers_are_told_in_short():
    """Three columns of sizes, one of memory, one of time; what is not known has a line instead."""
    found = {"pretrain": KNOWN, "finetune": {"unknown": "it reads what pretrain will make"}}
    assert estimates.rows(found) == [("pretrain", "873.2k", "6.4G", "5.8T", "0.6 GB", "59 s")]
    evaluated = {key: KNOWN[key] for key in ("parameters", "memory_gb", "seconds")}
    assert estimates.rows({"evaluate": evaluated}) == [("evaluate", "873.2k", "", "", "0.6 GB", "59 s")]
    assert estimates.unknown(found) == ["finetune: no estimate, it reads what pretrain will make"]
