from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from pretune.adaptation import methods
from pretune.errors import ParamsError
from pretune.models import layers

FAMILIES = ["bert", "modernbert", "roberta", "distilbert", "gpt2", "llama", "t5", "bart"]
SHAPE = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "pad_token_id": 0}
OTHER = {
    "t5": {"vocab_size": 60, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 3, "num_heads": 2},
    "bart": {"vocab_size": 60, "d_model": 16, "encoder_layers": 3, "decoder_layers": 3,
             "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16},
}  # fmt: skip


@pytest.fixture
def model(deterministic):
    """A function from a family to its smallest classifier of three layers."""

    def make(family):
        config = AutoConfig.for_model(family, num_labels=3, **OTHER.get(family, SHAPE))
        return AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)

    return make


def trained(model):
    """The names of the trained parameters."""
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("family", FAMILIES)
def test_layer_depths_count_the_layers_of_a_model(model, family):
    """Three layers in each family, embeddings below, the head above."""
    network = model(family)
    depths = layers.layer_depths(network)
    assert layers.count(network) == 3
    assert set(depths.values()) == {-1, 0, 1, 2, 3}
    assert depths.keys() == {name for name, _ in network.named_parameters()}


@pytest.mark.parametrize("family", FAMILIES)
def test_head_trains_the_head_and_new_weights(model, family):
    """Of the body only weights that are not in the pretrained model."""
    network = model(family)
    new = {next(name for name, _ in network.base_model.named_parameters(prefix=network.base_model_prefix))}
    methods.choose("head", {}).apply(network, frozenset(new))
    assert trained(network) == methods.head(network) | new
    assert methods.head(network)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("number", [1, 3])
def test_top_trains_the_layers_next_to_the_head(model, family, number):
    """These layers and all weights above them; never embeddings."""
    network = model(family)
    methods.choose("top", {"layers": number}).apply(network, frozenset())
    depths = layers.layer_depths(network)
    assert trained(network) == {name for name, depth in depths.items() if depth >= 3 - number} | methods.head(network)


def test_more_layers_than_there_are_is_an_error(model):
    """The message gives their number."""
    with pytest.raises(ParamsError, match="4, but the model has 3"):
        methods.choose("top", {"layers": 4}).apply(model("bert"), frozenset())


@pytest.mark.parametrize("family", FAMILIES)
def test_gradual_unfreezes_one_layer_after_the_other_from_the_top(model, family):
    """The head from the start, each layer one and a half epochs after the one above it, embeddings last."""
    network = model(family)
    schedule = methods.choose("gradual", {"epochs_per_layer": 1.5}).unfreeze_schedule(network, steps_per_epoch=10)
    depths = layers.layer_depths(network)
    assert {name: (3 - depth) * 15 for name, depth in depths.items() if depth < 3} == schedule


def test_full_trains_everything(model):
    """From the first step."""
    network, adaptation = model("bert"), methods.choose("full", {})
    adaptation.apply(network, frozenset())
    assert len(trained(network)) == len(list(network.parameters()))
    assert adaptation.unfreeze_schedule(network, 10) == {}
