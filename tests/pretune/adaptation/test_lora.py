"""LoRA layers in training: one function, and frozen matrices in bf16 where that loses nothing."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from pretune.adaptation import lora, methods

SHAPE = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "pad_token_id": 0}


@pytest.fixture
def adapted(deterministic):
    """A function from settings to a decoder with biases and LoRA, whose weights are a step away from new ones."""

    def make(**settings):
        config = AutoConfig.for_model("qwen2", intermediate_size=24, num_key_value_heads=1, **SHAPE)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for parameter in model.parameters():
            parameter.data = parameter.data.bfloat16().float()  # as from a checkpoint in bf16
        methods.choose("lora", {"r": 4, "lora_alpha": 8} | settings).apply(model, frozenset())
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data += 0.1 * torch.randn_like(parameter)
        return model

    return make


def losses(model, *, bf16):
    """A loss, and the gradient of each trained weight by its name."""
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = model(input_ids=torch.arange(1, 41).view(4, 10), labels=torch.arange(2, 42).view(4, 10)).loss
    loss.backward()
    return loss.item(), {n: p.grad for n, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, {"use_dora": True}, {"lora_dropout": 0.5}])
def test_fused_layers_compute_what_those_of_peft_do(adapted, settings, bf16):
    """Loss and gradients; layers with dropout or of DoRA are left to peft."""
    model = adapted(**settings)
    peers = copy.deepcopy(model)
    lora.fuse(model, bf16=bf16)
    fused = [name for name, module in model.named_modules() if "forward" in vars(module)]
    assert len(fused) == (14 if "lora_dropout" not in settings and "use_dora" not in settings else 0)
    torch.manual_seed(0)
    loss, gradients = losses(model, bf16=bf16)
    torch.manual_seed(0)
    expected, others = losses(peers, bf16=bf16)
    assert loss == pytest.approx(expected, rel=1e-3 if bf16 else 1e-6)
    assert gradients.keys() == others.keys()
    for name, gradient in gradients.items():
        assert (gradient - others[name]).norm() <= (0.1 if bf16 else 1e-5) * others[name].norm(), name


def test_frozen_matrices_lie_in_bf16_only_if_nothing_is_lost(adapted):
    """And come back to the bit, in the number format that they had."""
    model = adapted()
    exact = {name: value.clone() for name, value in model.state_dict().items()}
    inexact = model.model.layers[0].mlp.up_proj.base_layer.weight
    inexact.data += 1e-5
    kept = inexact.data.clone()
    lora.fuse(model, bf16=True)
    formats = {name: p.dtype for name, p in model.named_parameters() if "base_layer.weight" in name}
    assert [name for name, dtype in formats.items() if dtype == torch.float32] == [
        "model.layers.0.mlp.up_proj.base_layer.weight"
    ]
    lora.unfuse(model)
    assert not any("forward" in vars(module) for module in model.modules())
    for name, value in model.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, kept if "0.mlp.up_proj.base" in name else exact[name])


def test_in_single_precision_all_matrices_stay(adapted):
    """Products of fp32 need weights of fp32."""
    model = adapted()
    lora.fuse(model, bf16=False)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_a_trained_matrix_below_an_adapter_has_a_gradient(adapted):
    """`new` weights of a model are trained along with their adapters."""
    model = adapted()
    layer = model.model.layers[0].mlp.up_proj
    layer.base_layer.weight.requires_grad_()
    peers = copy.deepcopy(model)
    lora.fuse(model, bf16=True)
    assert isinstance(layer.base_layer, nn.Linear)
    assert layer.base_layer.weight.dtype == torch.float32
    (_, one), (_, other) = losses(model, bf16=False), losses(peers, bf16=False)
    name = "model.layers.0.mlp.up_proj.base_layer.weight"
    torch.testing.assert_close(one[name], other[name])
