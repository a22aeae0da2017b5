from __future__ import annotations

import copy
import json

import peft
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from pretune.adaptation import adapters, methods
from pretune.errors import ParamsError

SHAPE = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "pad_token_id": 0}
SMALL = {  # where peft's defaults are too large for a tiny model
    "c3a": {"block_size": 8}, "miss": {"r": 2}, "shira": {"r": 2}, "road": {"group_size": 2},
    "waveft": {"n_frequency": 10}, "osf": {"effective_rank": 4},
    "fourierft": {"n_frequency": 10}, "psoft": {"r": 2}, "oft": {"oft_block_size": 4},
}  # fmt: skip


@pytest.fixture
def model(deterministic):
    """A tiny decoder in eval mode."""
    config = AutoConfig.for_model("llama", intermediate_size=16, num_key_value_heads=2, **SHAPE)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def logits(model):
    """The model's logits for a few tokens."""
    with torch.no_grad():
        return model(input_ids=torch.arange(1, 41).view(4, 10)).logits


def disturb(model):
    """Change the trained weights, as training would: new adapters change no outputs."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")  # shira's matrices
@pytest.mark.parametrize("method", adapters.methods())
def test_a_merged_model_has_the_logits_of_the_adapted_one(model, method):
    """For every method offered; afterwards the weights have their former names and shapes."""
    names = {name: value.shape for name, value in model.state_dict().items()}
    before = logits(model)
    methods.choose(method, SMALL.get(method, {})).apply(model, frozenset())
    trained = methods.trained(model)
    assert 0 < trained < sum(parameter.numel() for parameter in model.parameters())
    disturb(model)
    adapted = logits(model)
    assert (adapted - before).abs().max() > 1e-5
    torch.testing.assert_close(logits(adapters.merge(model)), adapted, rtol=1e-4, atol=1e-5)
    assert {name: value.shape for name, value in model.state_dict().items()} == names


def test_dora_is_lora_with_magnitudes(model):
    """A name of its own for peft's use_dora."""
    methods.choose("dora", {"r": 2}).apply(model, frozenset())
    assert model.peft_config["default"].use_dora
    assert any("lora_magnitude_vector" in name for name, _ in model.named_parameters())


def test_without_targets_every_matrix_in_the_layers_is_adapted(model):
    """And none outside, neither embeddings nor the projection to the vocabulary."""
    methods.choose("lora", {"r": 2}).apply(model, frozenset())
    adapted = {name.split(".lora_A")[0] for name, _ in model.named_parameters() if ".lora_A" in name}
    assert len(adapted) == 2 * 7
    assert all(".layers." in name for name in adapted)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks for it
def test_saved_adapters_are_loaded_by_peft(model, tmp_path):
    """PeftModel adds them to the base model, and its logits are the same."""
    base = copy.deepcopy(model)
    methods.choose("lora", {"r": 2}).apply(model, frozenset())
    disturb(model)
    adapters.save(adapters.weights(model), tmp_path / "adapter")
    assert {path.name for path in (tmp_path / "adapter").iterdir()} >= {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    loaded = peft.PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    torch.testing.assert_close(logits(loaded), logits(model))


def test_saved_settings_are_in_one_order(model, tmp_path):
    """Peft keeps names in sets, whose order differs from process to process: the file would, too."""
    expected = sorted(adapters.targets(model))
    methods.choose("lora", {"r": 2}).apply(model, frozenset())
    adapters.save(adapters.weights(model), tmp_path / "adapter")
    names = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))["target_modules"]
    assert names == expected


def test_a_model_without_adapters_has_none_to_save_or_merge(model, tmp_path):
    """Nothing is written, and the logits stay."""
    before = logits(model)
    adapters.save(adapters.weights(model), tmp_path / "adapter")
    assert not list(tmp_path.iterdir())
    assert torch.equal(logits(adapters.merge(model)), before)


def test_a_copy_has_the_same_adapters_and_frozen_weights(model):
    """Cost estimates run on such a copy."""
    methods.choose("lora", {"r": 2}).apply(model, frozenset({"lm_head.weight"}))
    copied, expected = (
        {name: (weight.shape, weight.requires_grad) for name, weight in network.named_parameters()}
        for network in (adapters.like(model), model)
    )
    assert copied == expected
    assert expected["lm_head.weight"][1]


@pytest.mark.parametrize(
    ("method", "settings", "words"),
    [
        ("loraa", {}, "did you mean lora?"),
        ("prompt_tuning", {}, "adds no weights to be merged"),
        ("vera", {}, "its layers share weights"),
        ("adalora", {}, "reallocate its ranks"),
        ("lora", {"rank": 3, "lora_alhpa": 1}, "did you mean lora_alpha?"),
        ("dora", {"use_dora": False}, "no setting of dora"),
        ("top", {}, "adaptation.settings.layers: missing; top needs it"),
        ("full", {"layers": 1}, "no setting of full, which has none"),
    ],
)
def test_an_invalid_choice_is_reported_with_what_is_allowed(method, settings, words):
    """Unknown methods, unknown keys and missing keys, all at once, with the nearest match."""
    with pytest.raises(ParamsError) as caught:
        methods.choose(method, settings)
    assert words in str(caught.value)
    assert len(caught.value.problems) == max(1, len(settings))


@pytest.mark.parametrize("settings", [{"r": -1}, {"target_modules": ["nowhere"]}])
def test_settings_that_peft_refuses_are_a_params_error(model, settings):
    """With peft's reason, without a traceback."""
    with pytest.raises(ParamsError, match="peft refuses lora"):
        methods.choose("lora", settings).apply(model, frozenset())
