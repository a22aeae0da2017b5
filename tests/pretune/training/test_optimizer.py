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
    """A function from family, optimizer and settings to a model and what is built to train it."""

    def both(family, name, **settings):
        model = make(family)
        chosen = {"optimizer": name, "weight_decay": 0.5, "learning_rate": 0.01} | settings
        return model, optimizer.build(model, params.pretrain.model_copy(update=chosen))

    return both


def groups(optimizers):
    """All groups of all optimizers."""
    return [group for each in optimizers for group in each.param_groups]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_that_is_trained_is_in_exactly_one_group(built, family, name):
    """Nothing is left untrained and nothing is stepped twice, tied weights included; scales apart or not."""
    model, optimizers = built(family, name, layer_decay=0.5)
    held = [id(p) for group in groups(optimizers) for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_what_is_frozen_is_in_no_group(make, params, name):
    """A parameter without a gradient keeps its value."""
    model = make("modernbert")
    frozen = next(iter(model.parameters())).requires_grad_(requires_grad=False)
    settings = params.pretrain.model_copy(update={"optimizer": name})
    held = [id(p) for group in groups(optimizer.build(model, settings)) for p in group["params"]]
    assert id(frozen) not in held
    assert len(held) == len(list(model.parameters())) - 1


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", NAMES)
def test_norms_biases_and_embeddings_are_not_decayed(built, family, name):
    """Only matrices that are no embedding lose weight, and all of them do."""
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
    """Head 1, last layer 1/2, the one below 1/4, the embeddings with their norm 1/8, and the rate follows."""
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
def test_state_that_is_made_in_advance_changes_no_weight_and_no_step(built, name):
    """What a checkpoint is read into: the steps after it are those of an optimizer that never heard of it."""
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
        for each in (optimizers, others):
            optimizer.set_rate(each, 0.01)
            optimizer.step(each, FINITE)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_both_optimizers_move_a_matrix_by_about_the_learning_rate(built, name):
    """One learning rate serves both: the root mean square of a first update is of its size."""
    model, optimizers = built("llama", name, weight_decay=0.0)
    matrix = dict(model.named_parameters())["model.layers.0.mlp.down_proj.weight"]
    before = matrix.detach().clone()
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    optimizer.set_rate(optimizers, 0.01)
    optimizer.step(optimizers, FINITE)
    moved = (matrix.detach() - before).square().mean().sqrt()
    assert 0.001 < moved < 0.02
