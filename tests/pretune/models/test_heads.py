from __future__ import annotations

import pytest
import torch

from pretune.models import attention, heads
from pretune.predictor import decoding

# Different lengths, some alone in their bucket; equal ones, without reordering; one; single tokens and a long one.
LENGTHS = [[5, 1, 17, 23, 40, 17, 8, 2], [12, 12, 12], [33], [1, 1, 70]]
VARIANTS = [
    "bert", "roberta", "modernbert", "modernbert-local", "gpt2", "llama", "llama-gqa", "mistral", "mistral-window",
    "qwen2", "qwen2-window", "qwen3", "smollm3", "distilbert",
    "gemma", "gemma3_text", "glm4", "olmo2", "olmo3", "phi3", "phi3-window", "starcoder2",
]  # fmt: skip
EVERY_VARIANT = pytest.mark.parametrize("variant", VARIANTS)


def predicted(packed):
    """Every third position, and a target for each."""
    positions = torch.arange(0, len(packed.input_ids), 3)
    return positions, (packed.input_ids[positions] * 7 + 1) % 90


def test_every_family_is_tested():
    """A family that is added to the lists is added here."""
    assert {variant.split("-", maxsplit=1)[0] for variant in VARIANTS} == {*heads.ENCODERS, *heads.DECODERS}
    assert decoding.FAMILIES == heads.DECODERS, "what is trained packed is decoded in batches"


@EVERY_VARIANT
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_packed_documents_have_the_states_that_they_have_alone(small, variant, lengths):
    """As transformers' own forward pass computes them, one document after the other."""
    model, own = small.pair(variant)
    texts = small.documents(lengths)
    with torch.no_grad():
        states, expected = heads.states(model, small.together(texts)), small.states_alone(own, texts)
    assert expected.std() > 0.1  # so a wrong mask would change the states
    torch.testing.assert_close(states, expected, rtol=1e-4, atol=2e-5)


@EVERY_VARIANT
def test_a_pack_needs_no_mask(small, variant, monkeypatch):
    """Transformers' own mask depends on the values of the positions, for which a GPU would have to be waited for."""
    model, _ = small.pair(variant)
    monkeypatch.setattr("transformers.masking_utils.find_packed_sequence_indices", pytest.fail)
    with torch.no_grad():
        heads.states(model, small.together(small.documents(LENGTHS[0])))


@EVERY_VARIANT
@pytest.mark.parametrize("materialized", [512, 8])
def test_loss_and_gradients_of_a_pack_are_those_of_its_documents(small, variant, materialized, monkeypatch):
    """Of every parameter, by the matrix of scores and by SDPA alike."""
    monkeypatch.setattr(attention, "MATERIALIZED", materialized)
    model, own = small.pair(variant)
    texts = small.documents(LENGTHS[0])
    packed = small.together(texts)
    positions, targets = predicted(packed)
    loss, expected = (
        heads.token_loss(model, packed, positions, targets),
        small.loss_alone(own, texts, positions, targets),
    )
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    small.assert_alike(small.gradients(model, loss), small.gradients(own, expected))


@EVERY_VARIANT
@pytest.mark.parametrize("materialized", [512, 8])
@pytest.mark.parametrize("lengths", LENGTHS[:2], ids=str)
def test_a_document_does_not_attend_to_another(small, variant, materialized, lengths, monkeypatch):
    """With another token in one document, only its own states change, bit for bit."""
    monkeypatch.setattr(attention, "MATERIALIZED", materialized)
    model, _ = small.pair(variant)
    texts = small.documents(lengths)
    with torch.no_grad():
        before = heads.states(model, small.together(texts)).split(lengths)
        for number, text in enumerate(texts):
            changed = [*texts[:number], text.clone(), *texts[number + 1 :]]
            changed[number][0] = 5 + (text[0] + 1) % 80
            after = heads.states(model, small.together(changed)).split(lengths)
            assert [torch.equal(*both) for both in zip(before, after, strict=True)] == [
                place != number for place in range(len(texts))
            ]


@pytest.mark.parametrize("variant", ["gpt2", "llama-gqa", "mistral-window"])
def test_a_decoder_does_not_look_ahead(small, variant):
    """Another last token changes the state of that token only."""
    model, _ = small.pair(variant)
    texts = small.documents([9, 30])
    with torch.no_grad():
        before = heads.states(model, small.together(texts))
        texts[1][-1] = 5 + (texts[1][-1] + 1) % 80
        after = heads.states(model, small.together(texts))
    assert torch.equal(before[:-1], after[:-1])
    assert not torch.equal(before[-1], after[-1])


@EVERY_VARIANT
def test_gradient_checkpointing_gives_the_same_gradients(small, variant, monkeypatch):
    """Gradient checkpointing: the layers run twice, with the same dropout."""
    calls = []
    own = attention._attend
    monkeypatch.setattr(attention, "_attend", lambda *a, **k: calls.append(1) or own(*a, **k))
    packed = small.together(small.documents(LENGTHS[0]))
    gradients, called = [], []
    for twice in (False, True):
        model, _ = small.pair(variant, dropout=0.1)
        model.train()
        if twice:
            model.activation_checkpointing_enable({"use_reentrant": False})
        calls.clear()
        torch.manual_seed(1)
        gradients.append(small.gradients(model, heads.token_loss(model, packed, *predicted(packed))))
        called.append(len(calls))
    assert called[1] == 2 * called[0]
    small.assert_alike(*gradients)


@EVERY_VARIANT
@pytest.mark.parametrize("padded", [False, True])
def test_a_prepared_model_computes_rows_as_before(small, variant, padded):
    """With and without padding, its logits are those of transformers' own SDPA."""
    model, own = small.pair(variant)
    ids = torch.stack(small.documents([20, 20, 20]))
    mask = torch.ones_like(ids)
    if padded:
        mask[0, 13:] = mask[2, 5:] = 0
    options = {"attention_mask": mask} if padded else {}
    with torch.no_grad():
        logits, expected = (network(input_ids=ids, **options).logits for network in (model, own))
    torch.testing.assert_close(logits[mask == 1], expected[mask == 1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", ["llama-gqa", "mistral-window", "gpt2"])
def test_a_prepared_decoder_generates_as_before(small, variant):
    """Token by token with a cache, and with several tokens on top of one."""
    model, own = small.pair(variant)
    ids = small.documents([9])[0][None]
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": -1}
    outputs = [network.generate(ids, attention_mask=torch.ones_like(ids), **options) for network in (model, own)]
    assert torch.equal(*outputs)
    with torch.no_grad():
        caches = [network(input_ids=ids[:, :5], use_cache=True).past_key_values for network in (model, own)]
        after = [
            network(input_ids=ids[:, 5:], past_key_values=cache).logits
            for network, cache in zip((model, own), caches, strict=True)
        ]
    torch.testing.assert_close(*after, rtol=1e-4, atol=1e-5)


@EVERY_VARIANT
def test_half_precision_is_close_to_single(small, variant):
    """Under bf16 autocast: loss and gradients of the size and direction of those without."""
    packed = small.together(small.documents(LENGTHS[0]))
    losses, directions = [], []
    for half in (False, True):
        model, _ = small.pair(variant)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = heads.token_loss(model, packed, *predicted(packed))
        losses.append(loss.item())
        directions.append(torch.cat([gradient.flatten() for gradient in small.gradients(model, loss).values()]))
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert torch.cosine_similarity(*directions, dim=0) > 0.98


@EVERY_VARIANT
def test_attention_computes_in_the_type_of_autocast(small, variant, monkeypatch):
    """Also in families that compute queries and keys in fp32: flash attention takes half precision only."""
    seen = set()
    own = attention._attend
    monkeypatch.setattr(attention, "_attend", lambda *a, **k: seen.update(x.dtype for x in a[:3]) or own(*a, **k))
    model, _ = small.pair(variant)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        heads.states(model, small.together(small.documents([3, 9])))
    assert seen == {torch.bfloat16}


CLASSIFIERS = pytest.mark.parametrize(
    ("variant", "pooling"),
    [
        *((variant, pooling) for variant in ("modernbert", "modernbert-local") for pooling in ("mean", "cls")),
        *(
            (variant, "")
            for variant in ("bert", "roberta", "distilbert", "gpt2", "llama", "qwen2-window", "gemma3_text", "phi3")
        ),
    ],
)


@CLASSIFIERS
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_a_packed_classifier_has_the_logits_of_transformers(small, variant, pooling, lengths):
    """Logits of every document, and gradients of every parameter."""
    extra = {"classifier_pooling": pooling} if pooling else {}
    model, own = small.pair(variant, head="SequenceClassification", num_labels=3, **extra)
    texts = small.documents(lengths)
    logits = heads.classify(model, small.together(texts))
    expected = torch.cat([own(input_ids=text[None]).logits for text in texts])
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    small.assert_alike(small.gradients(model, logits.square().sum()), small.gradients(own, expected.square().sum()))


@pytest.mark.parametrize("variant", ["bert", "modernbert", "roberta", "distilbert", "gpt2", "llama", "qwen2", "phi3"])
def test_a_packed_token_classifier_has_the_logits_of_transformers(small, variant):
    """Logits of every token, and gradients of every parameter."""
    model, own = small.pair(variant, head="TokenClassification", num_labels=5)
    texts = small.documents(LENGTHS[0])
    logits = heads.tag(model, small.together(texts))
    expected = torch.cat([own(input_ids=text[None]).logits[0] for text in texts])
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    small.assert_alike(small.gradients(model, logits.square().sum()), small.gradients(own, expected.square().sum()))


@pytest.mark.parametrize(
    ("family", "head", "shape"),
    [
        ("electra", "MaskedLM", {"embedding_size": 16}),
        ("albert", "MaskedLM", {}),
        ("opt", "CausalLM", {"ffn_dim": 40}),
        ("gemma3_text", "CausalLM", {"num_key_value_heads": 2, "head_dim": 8, "final_logit_softcapping": 0.01}),
    ],
)
def test_a_family_that_does_not_run_packed_gets_padded_rows(small, family, head, shape):
    """Loss and gradients are those of transformers' own forward pass on each document."""
    model = small.other(family, head, **shape)
    texts = small.documents(LENGTHS[0])
    packed = small.together(texts)
    positions, targets = predicted(packed)
    heads.prepare(model)
    loss, expected = (
        heads.token_loss(model, packed, positions, targets),
        small.loss_alone(model, texts, positions, targets),
    )
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    small.assert_alike(small.gradients(model, loss), small.gradients(model, expected))


def test_a_classifier_of_such_a_family_predicts_every_text(small):
    """In the order of the texts, with the logits of each text alone."""
    model = small.other("electra", "SequenceClassification", num_labels=3)
    texts = small.documents(LENGTHS[0])
    expected = torch.cat([model(input_ids=text[None]).logits for text in texts])
    torch.testing.assert_close(heads.classify(model, small.together(texts)), expected, rtol=1e-4, atol=1e-5)
