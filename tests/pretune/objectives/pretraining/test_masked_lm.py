from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from pretune.data.loading import corpus
from pretune.models import build, heads
from pretune.objectives.pretraining.masked_lm import MaskedLM, word_beginnings

FAMILIES = ["modernbert", "bert", "roberta"]
RATES = st.floats(0.001, 0.999)
PAIRS = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 39)), min_size=1, max_size=8)


@pytest.fixture(scope="module")
def sequences(tmp_path_factory, shared_words):
    """A corpus of 40 rows of 16 tokens, each a document."""
    folder = tmp_path_factory.mktemp("corpus")
    corpus.write(folder, [[(row * 7 + place) % 300 + 4 for place in range(16)] for row in range(40)])
    return corpus.Sequences(folder, 16, shared_words.pad_token_id)


@pytest.fixture(scope="module")
def gaps(tmp_path_factory, shared_words):
    """A corpus with rows of 16 that end in padding: 30 of them with 11 tokens, in two documents."""
    folder = tmp_path_factory.mktemp("gaps")
    corpus.write(folder, [[(row + place) % 300 + 10 for place in range(8)] for row in range(15)] + [[9] * 11] * 30)
    return corpus.Sequences(folder, 16, shared_words.pad_token_id)


def batch_of(objective, pairs):
    """The batch of these (epoch, sample) pairs."""
    return objective.batch(*np.array(pairs).T)


def original(sequences, pairs):
    """The tokens of these rows as they are in the corpus."""
    return torch.from_numpy(sequences.rows(np.array(pairs)[:, 1])[0])


@given(RATES, PAIRS)
def test_the_same_number_of_tokens_is_masked_in_every_row(sequences, words, rate, pairs):
    """round(rate * length) different positions in each row, at least one."""
    batch = batch_of(MaskedLM(sequences, words, rate=rate, seed=0), pairs)
    hidden = max(1, round(rate * 16))
    assert batch.count == len(pairs) * hidden
    assert batch.tokens == len(pairs) * 16
    assert len(set(batch.positions.tolist())) == len(batch.positions)
    assert torch.bincount(batch.positions // 16).tolist() == [hidden] * len(pairs)


@given(RATES, PAIRS)
def test_targets_are_the_original_tokens(sequences, words, rate, pairs):
    """And tokens that are not masked stay in the input."""
    batch = batch_of(MaskedLM(sequences, words, rate=rate, seed=0), pairs)
    tokens = original(sequences, pairs)
    assert torch.equal(tokens[batch.positions], batch.targets)
    shown = torch.ones(len(tokens), dtype=torch.bool)
    shown[batch.positions] = False
    assert torch.equal(batch.packed.input_ids[shown], tokens[shown])


@given(RATES, st.lists(st.tuples(st.integers(0, 50), st.integers(0, 29)), min_size=1, max_size=8))
def test_padding_is_never_masked(gaps, words, rate, pairs):
    """In a row that is not full, only its own tokens are predicted."""
    batch = batch_of(MaskedLM(gaps, words, rate=rate, seed=0), pairs)
    assert words.pad_token_id not in batch.targets
    tokens, _, real = gaps.rows(np.array(pairs)[:, 1])
    assert torch.equal(torch.from_numpy(tokens)[batch.positions], batch.targets)
    assert (batch.packed.input_ids[~torch.from_numpy(real)] == words.pad_token_id).all()
    own = real.reshape(-1, 16).sum(axis=1)
    masked = torch.bincount(batch.positions // 16, minlength=len(pairs))
    assert masked.tolist() == np.minimum(max(1, round(rate * 16)), own).tolist()


@given(RATES, PAIRS, st.integers(0, 3))
def test_the_mask_of_a_sample_is_the_same_in_any_batch(sequences, words, rate, pairs, seed):
    """Positions and replacements are a function of seed, epoch and sample, not of the other samples or their order."""
    objective = MaskedLM(sequences, words, rate=rate, seed=seed)
    batch = batch_of(objective, pairs)
    alone = [batch_of(objective, [pair]) for pair in pairs]
    assert torch.equal(batch.packed.input_ids, torch.cat([other.packed.input_ids for other in alone]))
    assert torch.equal(batch.targets, torch.cat([other.targets for other in alone]))
    assert torch.equal(batch.positions, torch.cat([other.positions + 16 * row for row, other in enumerate(alone)]))


def test_the_mask_changes_with_seed_epoch_and_sample(sequences, words):
    """A row has another mask in the next epoch and with another seed; so have other rows."""
    objective, other = (MaskedLM(sequences, words, rate=0.3, seed=seed) for seed in (0, 1))
    pairs = [(0, 0), (1, 0), (0, 1)]
    masks = [batch_of(objective, [pair]).positions.tolist() for pair in pairs]
    masks.append(batch_of(other, [pairs[0]]).positions.tolist())
    assert len({tuple(mask) for mask in masks}) == 4


def test_every_position_is_masked_equally_often(sequences, words):
    """Over many epochs no position of a row is preferred."""
    objective = MaskedLM(sequences, words, rate=0.25, seed=0)
    batch = batch_of(objective, [(epoch, sample) for epoch in range(50) for sample in range(40)])
    counts = torch.bincount(batch.positions % 16, minlength=16) / 2000
    assert ((counts - 0.25).abs() < 4 * (0.25 * 0.75 / 2000) ** 0.5).all()


def test_selected_tokens_are_masked_kept_or_replaced(sequences, words):
    """About 80 % become [MASK], 10 % stay, 10 % become a random token that is not special."""
    objective = MaskedLM(sequences, words, rate=0.5, seed=0)
    batch = batch_of(objective, [(epoch, sample) for epoch in range(20) for sample in range(40)])
    seen = batch.packed.input_ids[batch.positions]
    masked, kept = seen == words.mask_token_id, seen == batch.targets
    assert masked.float().mean().item() == pytest.approx(0.8, abs=0.02)
    assert kept.float().mean().item() == pytest.approx(0.1, abs=0.02)
    random = seen[~masked & ~kept]
    assert not set(random.tolist()) & set(words.all_special_ids)
    assert len(set(random.tolist())) > 200


def test_validation_measures_what_training_minimises(sequences, words, tiny):
    """`score` gives the loss of the batch, as a sum."""
    model = build.new(MaskedLM, tiny()).eval()
    heads.prepare(model)
    objective = MaskedLM(sequences, words, rate=0.3, seed=0)
    batch = batch_of(objective, [(0, 1), (0, 2)])
    with torch.no_grad():
        score = objective.score(model, batch)
    assert score.keys() == {"loss"}
    assert score["loss"].item() == objective.loss(model, batch).item()


def test_the_loss_of_an_uninformed_model_is_the_logarithm_of_the_vocabulary(sequences, words, tiny):
    """A known value: each masked token costs log(vocabulary), and the loss is the sum."""
    model = build.new(MaskedLM, tiny()).eval()
    heads.prepare(model)
    torch.nn.init.zeros_(model.get_output_embeddings().weight)
    objective = MaskedLM(sequences, words, rate=0.3, seed=0)
    batch = batch_of(objective, [(0, row) for row in range(7)])
    assert objective.loss(model, batch).item() == pytest.approx(7 * 5 * math.log(len(words)), rel=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_the_models_own(sequences, words, tiny, family):
    """Projecting masked positions only gives the loss and gradients that transformers computes over all positions."""
    model = build.new(MaskedLM, tiny(family)).eval()
    objective = MaskedLM(sequences, words, rate=0.3, seed=0)
    batch = batch_of(objective, [(0, row) for row in range(4)])
    logits = model(input_ids=batch.packed.input_ids.view(4, 16)).logits.flatten(0, 1)  # rows without padding
    own = functional.cross_entropy(logits[batch.positions], batch.targets, reduction="sum")
    heads.prepare(model)
    losses = [objective.loss(model, batch), own]
    assert torch.allclose(*losses, rtol=1e-5)
    gradients = [torch.autograd.grad(loss, next(iter(model.parameters())))[0] for loss in losses]
    assert torch.allclose(*gradients, atol=1e-5)


def test_a_batch_moves_to_a_device(sequences, words):
    """Tokens, positions and targets move together."""
    moved = batch_of(MaskedLM(sequences, words, rate=0.3, seed=0), [(0, 0)]).to(torch.device("meta"))
    assert {tensor.device.type for tensor in (moved.packed.input_ids, moved.positions, moved.targets)} == {"meta"}


@pytest.fixture(scope="module")
def sentences(tmp_path_factory, shared_words):
    """A corpus of texts in rows of 24, several to a row."""
    folder = tmp_path_factory.mktemp("sentences")
    texts = [f"number {row} is about waves and {'harbour' * (row % 3)} butter" for row in range(30)]
    corpus.write(folder, [shared_words(text)["input_ids"] for text in texts])
    return corpus.Sequences(folder, 24, shared_words.pad_token_id)


@given(RATES, st.integers(0, 20))
def test_whole_words_are_masked_completely(sentences, words, rate, epoch):
    """No word is masked in part, unless it is the only one; never more tokens than the rate says."""
    objective = MaskedLM(sentences, words, rate=rate, seed=0, whole_words=True)
    begins, special = word_beginnings(words), set(words.all_special_ids)
    for sample in range(len(sentences)):
        ids, _, real = sentences.rows(np.array([sample]))
        batch = batch_of(objective, [(epoch, sample)])
        hidden = np.zeros(len(ids), dtype=bool)
        hidden[batch.positions.numpy()] = True
        assert 1 <= hidden.sum() <= objective.hidden
        starts = [n == 0 or begins[ids[n]] or ids[n - 1] in special for n in range(len(ids))]
        word = np.cumsum(starts)
        parts = [set(hidden[(word == index) & real]) for index in np.unique(word[hidden])]
        assert parts == [{True}] * len(parts) or len(parts) == 1


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (["play", "##ing", "[SEP]", ","], [True, False, True, True]),
        (["Ġplay", "ing", ",", "Ċ"], [True, False, True, True]),
        (["▁play", "ing", "▁", "."], [True, False, True, True]),
    ],
)
def test_word_beginnings_follow_from_the_marks_of_each_tokenizer(tokens, expected):
    """WordPiece marks tokens that continue a word, the others those after a space."""

    class Tokens:
        all_special_tokens = ("[SEP]",)

        def __len__(self):
            return len(tokens)

        def convert_ids_to_tokens(self, ids):
            return [tokens[index] for index in ids]

    assert word_beginnings(Tokens()).tolist() == expected
