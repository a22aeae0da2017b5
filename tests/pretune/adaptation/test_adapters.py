from __future__ import annotations

import copy

import peft
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from pretune.adaptation import adapters, methods
from pretune.errors import ParamsError

SHAPE = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "pad_token_id": 0}
SMALL = {  # where peft's own sizes are too large for the smallest of models
    "c3a": {"block_size": 8}, "miss": {"r": 2}, "shira": {"r": 2}, "road": {"group_size": 2},
    "waveft": {"n_frequency": 10}, "osf": {"effective_rank": 4},
    "fourierft": {"n_frequency": 10}, "psoft": {"r": 2}, "oft": {"oft_block_size": 4},
}  # fmt: skip


@pytest.fixture
def model(deterministic):
    """The smallest decoder, evaluating."""
    config = AutoConfig.for_model("llama", intermediate_size=16, num_key_value_heads=2, **SHAPE)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def logits(model):
    """What the model says about a few tokens."""
    with torch.no_grad():
        return model(input_ids=torch.arange(1, 41).view(4, 10)).logits


def disturb(model):
    """As if adapters had learnt something: every method begins where it changes nothing."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")  # shira's matrices
@pytest.mark.parametrize("method", adapters.methods())
def test_a_merged_model_says_what_it_said_with_adapters(model, method):
    """Of every method that is offered; what is left is a model of the same weights, by name and shape."""
    names = {name: value.shape for name, value in model.state_dict().items()}
    before = logits(model)
    methods.choose(method, SMALL.get(method, {})).apply(model, frozenset())
    trained = methods.trained(model)
    assert 0 < trained < sum(each.numel() for each in model.parameters())
    disturb(model)
    adapted = logits(model)
    assert (adapted - before).abs().max() > 1e-5
    torch.testing.assert_close(logits(adapters.merge(model)), adapted, rtol=1e-4, atol=1e-5)
    assert {name: value.shape for name, value in model.state_dict().items()} == names


def test_dora_is_lora_with_magnitudes(model):
    """Its own name, peft's configuration."""
    methods.choose("dora", {"r": 2}).apply(model, frozenset())
    assert model.peft_config["default"].use_dora
    assert any("lora_magnitude_vector" in name for name, _ in model.named_parameters())


def test_without_targets_every_matrix_in_the_layers_is_adapted(model):
    """And none outside: neither embeddings nor the projection to the vocabulary."""
    methods.choose("lora", {"r": 2}).apply(model, frozenset())
    adapted = {name.split(".lora_A")[0] for name, _ in model.named_parameters() if ".lora_A" in name}
    assert len(adapted) == 2 * 7
    assert all(".layers." in name for name in adapted)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks for it
def test_what_is_saved_beside_the_model_is_read_by_peft(model, tmp_path):
    """PeftModel puts the adapters onto the model that they were trained on, and says the same."""
    base = copy.deepcopy(model)
    methods.choose("lora", {"r": 2}).apply(model, frozenset())
    disturb(model)
    adapters.save(adapters.weights(model), tmp_path / "adapter")
    assert {each.name for each in (tmp_path / "adapter").iterdir()} >= {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    loaded = peft.PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    torch.testing.assert_close(logits(loaded), logits(model))


def test_a_model_without_adapters_has_none_to_save_or_merge(model, tmp_path):
    """Nothing is written, nothing changes."""
    before = logits(model)
    adapters.save(adapters.weights(model), tmp_path / "adapter")
    assert not list(tmp_path.iterdir())
    assert torch.equal(logits(adapters.merge(model)), before)


def test_a_model_made_alike_has_the_same_parts_trained(model):
    """Adapters and what is frozen: it stands in for the model where its cost is estimated."""
    methods.choose("lora", {"r": 2}).apply(model, frozenset({"lm_head.weight"}))
    other = adapters.like(model)
    found, expected = (
        {name: (each.shape, each.requires_grad) for name, each in one.named_parameters()} for one in (other, model)
    )
    assert found == expected
    assert expected["lm_head.weight"][1]


@pytest.mark.parametrize(
    ("method", "settings", "words"),
    [
        ("loraa", {}, "did you mean lora?"),
        ("prompt_tuning", {}, "adds no weights to be merged"),
        ("vera", {}, "its layers share weights"),
        ("adalora", {}, "divided anew"),
        ("lora", {"rank": 3, "lora_alhpa": 1}, "did you mean lora_alpha?"),
        ("dora", {"use_dora": False}, "no setting of dora"),
        ("top", {}, "layers"),
        ("full", {"layers": 1}, "the settings of full: none"),
    ],
)
def test_a_wrong_choice_says_what_there_is(method, settings, words):
    """Unknown methods, unknown keys, missing keys: all at once, with the nearest match."""
    with pytest.raises(ParamsError) as caught:
        methods.choose(method, settings)
    assert words in str(caught.value)
    assert len(caught.value.problems) == max(1, len(settings))


@pytest.mark.parametrize("settings", [{"r": -1}, {"target_modules": ["nowhere"]}])
def test_what_peft_refuses_is_told_as_a_mistake_in_params(model, settings):
    """Its own words, no traceback."""
    with pytest.raises(ParamsError, match="peft refuses lora"):
        methods.choose("lora", settings).apply(model, frozenset())
