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
    """The names of what is trained."""
    return {name for name, each in model.named_parameters() if each.requires_grad}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_heights_of_a_model_count_its_layers(model, family):
    """Three layers in each, embeddings below, something above."""
    found = model(family)
    heights = layers.layer_depths(found)
    assert layers.count(found) == 3
    assert set(heights.values()) == {-1, 0, 1, 2, 3}
    assert heights.keys() == {name for name, _ in found.named_parameters()}


@pytest.mark.parametrize("family", FAMILIES)
def test_head_trains_what_is_not_in_the_body_and_what_is_new(model, family):
    """Nothing of the body, but for weights that the pretrained model did not have."""
    found = model(family)
    new = {next(name for name, _ in found.base_model.named_parameters(prefix=found.base_model_prefix))}
    methods.choose("head", {}).apply(found, frozenset(new))
    assert trained(found) == methods.head(found) | new
    assert methods.head(found)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("number", [1, 3])
def test_top_trains_the_layers_next_to_the_head(model, family, number):
    """So many layers and all above them; embeddings never."""
    found = model(family)
    methods.choose("top", {"layers": number}).apply(found, frozenset())
    heights = layers.layer_depths(found)
    assert trained(found) == {name for name, height in heights.items() if height >= 3 - number} | methods.head(found)


def test_more_layers_than_there_are_is_a_mistake(model):
    """It says how many there are."""
    with pytest.raises(ParamsError, match="4, but the model has 3"):
        methods.choose("top", {"layers": 4}).apply(model("bert"), frozenset())


@pytest.mark.parametrize("family", FAMILIES)
def test_gradual_opens_one_layer_after_the_other_from_the_top(model, family):
    """The head at once, each layer an epoch and a half after the one above it, embeddings last."""
    found = model(family)
    opens = methods.choose("gradual", {"epochs_per_layer": 1.5}).unfreeze_schedule(found, steps_per_epoch=10)
    heights = layers.layer_depths(found)
    assert {name: (3 - height) * 15 for name, height in heights.items() if height < 3} == opens


def test_full_trains_everything(model):
    """From the first step."""
    found, chosen = model("bert"), methods.choose("full", {})
    chosen.apply(found, frozenset())
    assert len(trained(found)) == len(list(found.parameters()))
    assert chosen.unfreeze_schedule(found, 10) == {}
