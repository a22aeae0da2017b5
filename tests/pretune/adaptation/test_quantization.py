"""Frozen matrices in few bits: a quantised model computes, learns and is merged as its dequantised one."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from pretune.adaptation import adapters, lora, methods, quantization
from pretune.errors import ParamsError
from tests.pretune.adaptation.test_adapters import SMALL, disturb, logits

pytest.importorskip("bitsandbytes", reason="pip install 'pretune[quantization]'")

SHAPE = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "pad_token_id": 0}
KINDS = ("int8", "nf4")
OFFERED = sorted(set(adapters.methods()) - set(quantization.REFUSED))


@pytest.fixture
def pair(deterministic):
    """A function from a kind to a decoder with biases that is quantised, and the same one dequantised again.

    Its widths are no multiples of the 64 weights that share a scale.
    """

    def make(kind):
        config = AutoConfig.for_model("qwen2", intermediate_size=40, num_key_value_heads=1, **SHAPE)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        quantization.quantize(model, kind)
        other = copy.deepcopy(model)
        quantization.dequantize(other)
        return model, other

    return make


def learnt(model, *, bf16=False):
    """A loss, and the gradient of each trained weight by its name."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = model(input_ids=torch.arange(1, 41).view(4, 10), labels=torch.arange(2, 42).view(4, 10)).loss
    loss.backward()
    return loss, {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}


def same(model, other, **options):
    """Whether two models have the same loss and gradients to the bit."""
    (loss, gradients), (expected, others) = learnt(model, **options), learnt(other, **options)
    return (
        torch.equal(loss, expected)
        and gradients.keys() == others.keys()
        and all(torch.equal(gradients[name], others[name]) for name in others)
    )


@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")  # shira's matrices
@pytest.mark.parametrize(
    ("method", "kind"), [(method, KINDS[number % 2]) for number, method in enumerate(OFFERED)] + [("lora", "nf4")]
)
def test_every_method_learns_and_is_merged_as_on_the_dequantised_model(pair, method, kind):
    """Loss and gradients to the bit; the merged model is one of fp32, and has the logits of the trained one."""
    models = pair(kind)
    for model in models:
        torch.manual_seed(0)
        methods.choose(method, SMALL.get(method, {})).apply(model, frozenset())
        disturb(model)
    assert same(*models)
    trained = logits(models[0])
    merged = adapters.merge(models[0])
    torch.testing.assert_close(logits(merged), trained, rtol=1e-4, atol=1e-5)
    assert {parameter.dtype for parameter in merged.parameters()} == {torch.float32}


@pytest.mark.parametrize("targets", [["up_proj", "q_proj"], None])
def test_merged_matrices_may_lie_in_files_that_leave_nothing_behind(pair, tmp_path, targets):
    """The same numbers as in memory, also of matrices without an adapter."""
    model, _ = pair("nf4")
    models = [model, copy.deepcopy(model)]
    for model in models:
        torch.manual_seed(0)
        methods.choose("lora", {"r": 2, "target_modules": targets}).apply(model, frozenset())
        disturb(model)
    in_memory, in_files = adapters.merge(models[0]), adapters.merge(models[1], tmp_path)
    assert torch.equal(logits(in_memory), logits(in_files))
    expected = in_memory.state_dict()
    assert in_files.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in in_files.state_dict().items())
    maps = Path("/proc/self/maps")
    if maps.is_file():
        assert maps.read_text(encoding="utf-8").count(str(tmp_path)) == 14  # as many as there are matrices
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_fused_lora_learns_as_on_the_dequantised_model(pair, kind, bf16):
    """To the bit in fp32; in bf16 too, where the other model's matrices are rounded to bf16."""
    models = pair(kind)
    for model in models:
        torch.manual_seed(0)
        methods.choose("lora", {"r": 2}).apply(model, frozenset())
        disturb(model)
        lora.fuse(model, bf16=bf16)
        assert "forward" in vars(model.model.layers[1].mlp.up_proj)
    assert same(*models, bf16=bf16)


@pytest.mark.parametrize(("kind", "bits"), [("int8", 8 + 32 / 36), ("nf4", 4.5)])
def test_a_matrix_takes_the_bits_that_it_should(pair, kind, bits):
    """And its values are within half a step of what they were; quantising them again changes nothing."""
    matrix = torch.randn(128, 36)  # blocks of 64 do not end where rows do
    linear = nn.Linear(36, 128)
    linear.weight.data = matrix
    small = quantization.QuantizedLinear(linear, *quantization._quantized(matrix, kind))
    assert 8 * (small.codes.nbytes + small.scales.nbytes) / matrix.numel() == pytest.approx(bits)
    blocks = (
        (matrix - small.weight).abs().view(128, 36) if kind == "int8" else (matrix - small.weight).abs().view(-1, 64)
    )
    largest = matrix.view(blocks.shape).abs().amax(1, keepdim=True)
    step = 1 / 127 if kind == "int8" else 0.3039  # the widest gap between two values of nf4
    assert (blocks <= largest * step / 2 * 1.001).all()
    again, _ = quantization._quantized(small.weight, kind)
    assert torch.equal(again, small.codes)


def test_only_frozen_matrices_within_the_layers_are_quantised(pair):
    """Embeddings, norms, biases and the head stay; new weights too, which are trained."""
    model, _ = pair("nf4")
    small = {name for name, module in model.named_modules() if isinstance(module, quantization.QuantizedLinear)}
    assert len(small) == 14
    assert all(".layers." in name for name in small)
    _, other = pair("nf4")
    quantization.quantize(other, "nf4", frozenset({"model.layers.0.mlp.up_proj.weight"}))
    assert type(other.model.layers[0].mlp.up_proj) is nn.Linear


def test_a_copy_for_estimates_is_quantised_as_the_model(pair):
    """The same parameters, and no computing."""
    model, _ = pair("nf4")
    methods.choose("lora", {"r": 2}).apply(model, frozenset())
    with torch.device("meta"):
        copied = adapters.like(model)
    shapes = [
        {name: (p.shape, p.dtype, p.requires_grad) for name, p in one.named_parameters()} for one in (model, copied)
    ]
    assert shapes[0] == shapes[1]


def test_what_cannot_be_quantised_is_refused_at_once():
    """Methods without adapters, and inits that change the matrices."""
    assert quantization.problems("full", {}, None) == []
    assert quantization.problems("dora", {"init_lora_weights": "gaussian"}, "int8") == []
    found = quantization.problems("full", {"init_lora_weights": "pissa"}, "nf4")
    assert len(found) == 2
    assert "full has no adapters" in found[0]
    assert "pissa changes the matrices" in found[1]
    config = AutoConfig.for_model("gpt2", n_embd=16, n_layer=1, n_head=2, vocab_size=60)
    with pytest.raises(ParamsError, match="a gpt2 has no linear modules within layers"):
        quantization.quantize(AutoModelForCausalLM.from_config(config), "nf4")
