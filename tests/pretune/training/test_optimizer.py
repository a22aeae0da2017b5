from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pretune.models import build
from pretune.training import optimizer

FAMILIES = ["modernbert", "bert", "roberta"]


@pytest.fixture(params=[(family, name) for family in FAMILIES for name in ("adamw", "muon")], ids="-".join)
def built(request, params, tiny):
    """A model, and what is built to train it: every family with every optimizer."""
    family, name = request.param
    model = build.masked_lm(tiny(family))
    settings = params.pretrain.model_copy(update={"optimizer": name, "weight_decay": 0.5})
    return model, optimizer.build(model, settings)


def test_every_parameter_is_in_exactly_one_group(built):
    """Nothing is left untrained and nothing is stepped twice, tied weights included."""
    model, optimizers = built
    held = [id(p) for o in optimizers for group in o.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())


def test_norms_biases_and_embeddings_are_not_decayed(built):
    """Only matrices that are no embedding lose weight."""
    model, optimizers = built
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    decayed = [p for o in optimizers for group in o.param_groups if group["weight_decay"] for p in group["params"]]
    assert decayed
    assert all(p.ndim == 2 and id(p) not in embeddings for p in decayed)
    assert len(decayed) == sum(p.ndim == 2 and id(p) not in embeddings for p in model.parameters())


@given(st.integers(1, 400), st.floats(0, 1))
def test_the_rate_rises_to_its_peak_and_falls(params_free, steps, warmup):
    """Never zero, never above the setting, which it reaches; up over the warm-up, down after it."""
    settings = params_free.model_copy(update={"learning_rate": 0.01, "warmup": warmup})
    rates = [optimizer.learning_rate(step, steps, settings) for step in range(steps)]
    peak = max(1, round(warmup * steps))
    assert max(rates) == pytest.approx(0.01)
    assert min(rates) > 0
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak - 1] == pytest.approx(0.01)
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


@given(st.integers(2, 400), st.floats(0, 1))
def test_the_rate_changes_in_equal_steps(params_free, steps, warmup):
    """Linear up, linear down."""
    settings = params_free.model_copy(update={"learning_rate": 1.0, "warmup": warmup})
    rates = [optimizer.learning_rate(step, steps, settings) for step in range(steps)]
    peak = max(1, round(warmup * steps))
    for part in (rates[:peak], rates[peak:]):
        differences = [after - before for before, after in itertools.pairwise(part)]
        assert all(d == pytest.approx(differences[0], abs=1e-9) for d in differences)


@pytest.fixture(scope="module")
def params_free(params_file):
    """The finetuning settings, for tests that draw many examples."""
    from pretune.params import load

    return load(params_file).finetune
