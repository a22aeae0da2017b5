"""Decoding in batches: the same tokens as one prompt at a time, and as transformers' generate."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, DynamicCache

from pretune.config.params import ModelParams
from pretune.models import build
from pretune.predictor import decoding
from pretune.predictor.slots import Slots

SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
KEYS = {"num_key_value_heads": 2}  # heads share keys
WINDOW = {"sliding_window": 8}
GROUPED = {
    "mistral": WINDOW, "qwen3": {"head_dim": 16}, "gpt2": {"n_inner": 48}, "gemma": {"head_dim": 8}, "phi3": WINDOW,
    "gemma3_text": WINDOW | {"head_dim": 8, "num_hidden_layers": 6}, "olmo3": WINDOW | {"num_hidden_layers": 4},
    "glm4": {"head_dim": 8},
}  # fmt: skip
STOP = [7]
PROMPTS = [[(3 * number + place * place) % 300 + 10 for place in range(1 + 7 * number % 23)] for number in range(13)]
LIMITS = [1 + 5 * number % 17 for number in range(13)]


@pytest.fixture(scope="module")
def decoder(shared_words):
    """A function from a family to its smallest model, whose random weights prefer no token."""

    def make(family, dtype=torch.float32):
        torch.manual_seed(0)
        shape = {**SHAPE, **({} if family == "gpt2" else KEYS), **GROUPED.get(family, {})}
        if family == "gpt2":
            del shape["intermediate_size"]
        config = build.config_for(ModelParams(type=family, init=None, config=shape), build.text_shape(shared_words))
        config.initializer_range = 0.3
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()

    return make


def alone(model, prompts=PROMPTS, limits=LIMITS):
    """Each prompt by itself."""
    return [decoding.generate(model, [ids], [n], STOP)[0] for ids, n in zip(prompts, limits, strict=True)]


@pytest.mark.parametrize("family", decoding.FAMILIES)
def test_greedy_search_generates_what_transformers_does(decoder, family, monkeypatch):
    """In every family that is decoded in slots, with more prompts than rows; the attention is as before."""
    monkeypatch.setattr(decoding, "MOST", 4)
    model = decoder(family)
    before = model.config._attn_implementation
    ours = decoding.generate(model, PROMPTS, LIMITS, STOP)
    assert ours == [decoding._alone(model, ids, n, STOP) for ids, n in zip(PROMPTS, LIMITS, strict=True)]
    assert len({tuple(tokens) for tokens in ours}) > len(ours) // 2
    assert model.config._attn_implementation == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_prompt_gets_the_same_logits_beside_others(decoder, dtype):
    """To the last bit: alone, among others, at another place, in a wider cache."""
    model = decoder("llama", dtype)

    def logits(numbers, width=0):
        slots = Slots(len(numbers))
        slots.reserve(width)
        with torch.inference_mode():
            for row, number in enumerate(numbers):
                read = DynamicCache()
                decoding.prefill(model, PROMPTS[number], read)
                slots.insert(row, read)
            with decoding.attention_in_slots(model):
                return decoding.step(model, slots, [11] * len(slots.lengths))

    together = logits([0, 3, 5, 8, 9])
    assert torch.equal(together[2], logits([5])[0])
    assert torch.equal(together[4], logits([9, 2], width=300)[0])
    assert not torch.equal(together[0], together[1])


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 12)), max_size=9), st.sampled_from([1, 150, 10**6]))
@settings(max_examples=15)
def test_batches_and_memory_change_no_token(decoder, cases, capacity):
    """Any number of prompts of any length, and any bound on the cache: each prompt's tokens, in its place."""
    model = decoder("llama")
    prompts = [[(number * 5 + place) % 300 + 10 for place in range(length)] for number, (length, _) in enumerate(cases)]
    limits = [limit for _, limit in cases]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "_capacity", lambda _: capacity)
        assert decoding.generate(model, prompts, limits, STOP) == alone(model, prompts, limits)


def test_a_family_without_slots_is_decoded_too(decoder, monkeypatch):
    """By transformers, one prompt at a time."""
    model = decoder("llama")
    ours = decoding.generate(model, PROMPTS[:3], LIMITS[:3], STOP)
    monkeypatch.setattr(decoding, "FAMILIES", ())
    assert decoding.generate(model, PROMPTS[:3], LIMITS[:3], STOP) == ours


@pytest.mark.parametrize("rope", [{"rope_type": "longrope"}, {"full_attention": {"rope_type": "dynamic"}}])
def test_positions_that_a_long_sequence_turns_are_decoded_alone(decoder, rope):
    """Such as Phi-3's from 4,096 tokens on: beside a longer one a prompt would get other tokens."""
    model = decoder("llama")
    assert decoding.has_slots(model)
    model.config.rope_parameters = rope
    assert not decoding.has_slots(model)


def test_a_conversation_goes_on_in_its_cache(decoder, monkeypatch):
    """It gets the tokens of a fresh start, whether the prompt continues what was there or departs from it."""
    model, read = decoder("llama"), []
    prefill = decoding.prefill
    monkeypatch.setattr(decoding, "prefill", lambda m, ids, cache: (read.append(len(ids)), prefill(m, ids, cache))[1])
    session = decoding.Session(model)
    prompt = PROMPTS[5]
    for more, reread in (([20, 21], len(prompt)), ([22], None), ([23, 24], None)):
        answer = list(session.stream(prompt, 6, STOP))
        (fresh,) = decoding.generate(model, [prompt], [6], STOP)
        assert answer == [token for token in fresh if token not in STOP]
        assert reread is None or read[0] == reread
        prompt = prompt + answer + more
    assert read[2] <= 3  # the newest token of the answer, and what followed it
    departed = [*PROMPTS[5][:4], 30, 31]
    list(session.stream(departed, 2, STOP))
    assert read[-1] == 2


def test_sampling_repeats_with_its_seed(decoder):
    """Another seed gives other tokens; temperature 0 is greedy search."""
    model = decoder("llama")

    def sample(temperature, seed):
        choose = decoding.sampler(temperature, seed)
        return list(decoding.Session(model).stream(PROMPTS[4], 12, STOP, choose))

    assert sample(2.0, 1) == sample(2.0, 1) != sample(2.0, 2)
    assert sample(0.0, 1) == list(decoding.Session(model).stream(PROMPTS[4], 12, STOP))


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
def test_the_cache_holds_as_many_tokens_as_its_bytes_allow(decoder, family, monkeypatch):
    """Keys and values of every layer and head count, as the cache on a CPU stores them."""
    monkeypatch.setattr(decoding, "CACHE", 2**16)
    model, read = decoder(family), DynamicCache()
    decoding.prefill(model, PROMPTS[0], read)
    stored = [part for layer in read.layers for part in (layer.keys, layer.values)]
    size = sum(part.numel() * part.itemsize for part in stored) // len(PROMPTS[0])
    assert decoding._capacity(model) == 2**16 // size


def test_tokens_are_drawn_by_their_probabilities_at_the_temperature():
    """The likeliest at 0, the same again with the same seed."""
    logits = torch.tensor([[0.0, 1.0, 2.0]]).expand(4000, 3)
    for temperature in (0.5, 2.0):
        drawn = decoding.sampler(temperature, 1)(logits, [], [])
        assert drawn == decoding.sampler(temperature, 1)(logits, [], [])
        shares = torch.bincount(torch.tensor(drawn), minlength=3) / len(drawn)
        torch.testing.assert_close(shares, torch.softmax(logits[0] / temperature, dim=0), atol=0.03, rtol=0)
    assert decoding.sampler(0, 1)(logits, [], []) == [2] * len(logits)
