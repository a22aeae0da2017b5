from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from pretune.models import build
from pretune.objectives.pretraining.masked_lm import MaskedLM
from pretune.training import optimizer

FAMILIES = ["modernbert", "bert", "roberta", "gpt2", "llama", "qwen3"]
NAMES = ["adamw", "muon"]
FINITE = torch.ones((), dtype=torch.bool)


@pytest.fixture
def make(tiny, words):
    """A function from a family to its tiny model."""

    def model(family):
        if family in {"modernbert", "bert", "roberta"}:
            return build.new(MaskedLM, tiny(family))
        shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": len(words)}
        extra = {} if family == "gpt2" else {"intermediate_size": 64, "num_key_value_heads": 2}
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **shape, **extra))

    return model


@pytest.fixture
def built(make, params):
    """A function from family, optimizer and settings to a model and its optimizers."""

    def build_both(family, name, **settings):
        model = make(family)
        update = {"optimizer": name, "weight_decay": 0.5} | settings
        return model, optimizer.build(model, params.pretrain.model_copy(update=update))

    return build_both


def groups(optimizers):
    """All groups of all optimizers."""
    return [group for optim in optimizers for group in optim.param_groups]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_that_is_trained_is_in_exactly_one_group(built, family, name):
    """So each is updated once in a step, tied weights included."""
    model, optimizers = built(family, name, layer_decay=0.5)
    held = [id(p) for group in groups(optimizers) for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_a_frozen_parameter_is_in_no_group(make, params, name):
    """All others are in some group."""
    model = make("modernbert")
    frozen = next(iter(model.parameters())).requires_grad_(requires_grad=False)
    settings = params.pretrain.model_copy(update={"optimizer": name})
    held = [id(p) for group in groups(optimizer.build(model, settings)) for p in group["params"]]
    assert id(frozen) not in held
    assert len(held) == len(list(model.parameters())) - 1


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", NAMES)
def test_norms_biases_and_embeddings_are_not_decayed(built, family, name):
    """All matrices but embeddings have weight decay, and nothing else has."""
    model, optimizers = built(family, name)
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    matrices = {id(p) for p in model.parameters() if p.ndim == 2 and id(p) not in embeddings}
    decayed = {id(p) for group in groups(optimizers) if group["weight_decay"] for p in group["params"]}
    assert decayed == matrices
    assert {group["weight_decay"] for group in groups(optimizers)} == {0.0, 0.5}


@pytest.mark.parametrize("family", FAMILIES)
def test_muon_takes_the_matrices_and_adamw_the_rest(built, family):
    """Embeddings, norms and biases go to AdamW."""
    _, (muon, adamw) = built(family, "muon")
    assert isinstance(muon, torch.optim.Muon)
    assert isinstance(adamw, torch.optim.AdamW)
    assert all(group["weight_decay"] for group in muon.param_groups)
    assert not any(group["weight_decay"] for group in adamw.param_groups)


@pytest.mark.parametrize("family", FAMILIES)
def test_layer_decay_slows_each_layer_by_the_layers_above_it(built, family):
    """The rate of the head is the peak, of the last layer 1/2 of it, of the one below 1/4, of embeddings 1/8."""
    model, optimizers = built(family, "adamw", layer_decay=0.5)
    optimizer.set_rate(optimizers, 0.08)
    rate = {id(p): group["lr"] for group in groups(optimizers) for p in group["params"]}
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    seen = set()
    for name, parameter in model.named_parameters():
        where = "embeddings" if id(parameter) in embeddings or "embeddings" in name else "head"
        where = next((layer for layer in "01" if f".{layer}." in name and "head" not in name), where)
        expected = {"head": 0.08, "1": 0.04, "0": 0.02, "embeddings": 0.01}[where]
        assert rate[id(parameter)] == pytest.approx(expected), name
        seen.add(where)
    assert {"0", "1", "embeddings"} <= seen


@pytest.mark.parametrize("name", NAMES)
def test_materialized_state_changes_no_weight_and_no_step(built, name):
    """A checkpoint is loaded into it; later steps are those of a new optimizer."""
    torch.manual_seed(0)
    model, optimizers = built("modernbert", name)
    again, others = built("modernbert", name)
    again.load_state_dict(model.state_dict())
    optimizer.materialize(optimizers)
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True))
    for _ in range(3):
        for p, q in zip(model.parameters(), again.parameters(), strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        for pair in (optimizers, others):
            optimizer.set_rate(pair, 0.01)
            optimizer.step(pair, FINITE)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_both_optimizers_move_a_matrix_by_about_the_learning_rate(built, name):
    """So one learning rate serves both: it is about the root mean square of a first update."""
    model, optimizers = built("llama", name, weight_decay=0.0)
    matrix = dict(model.named_parameters())["model.layers.0.mlp.down_proj.weight"]
    before = matrix.detach().clone()
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    optimizer.set_rate(optimizers, 0.01)
    optimizer.step(optimizers, FINITE)
    moved = (matrix.detach() - before).square().mean().sqrt()
    assert 0.001 < moved < 0.02
