"""`compile: true`."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from transformers import AutoConfig

from pretune.models import build
from pretune.objectives.pretraining.causal_lm import CausalLM
from pretune.training import device, loop


@pytest.fixture
def losses(sequences, words, params, monkeypatch):
    """A function from settings to the losses of a tiny decoder and the model; compiling only traces."""
    device.prepare(0, 1)
    traced = functools.partialmethod(nn.Module.compile, backend="eager")
    monkeypatch.setattr(nn.Module, "compile", traced)
    shape = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}

    def run(layers, **settings):
        torch.manual_seed(0)
        config = AutoConfig.for_model("llama", vocab_size=len(words), pad_token_id=0, num_hidden_layers=layers, **shape)
        plain = {"batch_size": 4, "gradient_accumulation_steps": 1, "optimizer": "adamw", "evaluate_every": 0}
        chosen = params.finetune.model_copy(update=plain | {"metric_for_best_model": "last"} | settings)
        model = build.new(CausalLM, config)
        model, state = loop.train(model, CausalLM(sequences), chosen, 2, seed=0, report=lambda _: None)
        return [record.loss for record in state.records], model

    yield run
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # dynamo reads it
def test_compiled_layers_share_one_graph_and_compute_the_same(losses):
    """However many there are, and without a break; the model that comes out is not compiled."""
    captured = {}
    for layers in (1, 3):
        expected, _ = losses(layers, compile=False)
        torch._dynamo.reset()
        counters.clear()
        compiled, model = losses(layers, compile=True)
        assert compiled == pytest.approx(expected, rel=1e-4)
        assert counters["stats"]["unique_graphs"] == 1
        assert not counters["graph_break"]
        assert not any(module._compiled_call_impl for module in model.modules())
        captured[layers] = counters["stats"]["calls_captured"]
    assert captured[1] == captured[3]
