"""Denoising: text infilling and sentence permutation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretune.objectives.pretraining.denoising import _poisson, infill, permute

MASK = 3


def draws(seed, length):
    """Random numbers in [0, 1)."""
    return np.random.default_rng(seed).random((2, 2 * length))


@given(st.lists(st.integers(5, 500), min_size=1, max_size=120, unique=True), st.floats(0.05, 0.9), st.integers(0, 99))
def test_the_rate_of_tokens_is_replaced_and_the_rest_keeps_its_order(ids, rate, seed):
    """The tokens between the masks are those of the text; as many are missing as the rate says."""
    shown = [token for token in infill(np.array(ids), rate, 3, draws(seed, len(ids)), MASK).tolist() if token != MASK]
    assert shown == [token for token in ids if token in set(shown)]
    assert len(shown) == len(ids) - round(rate * len(ids))


def test_one_mask_replaces_spans_of_every_length():
    """Over many texts a mask replaces three tokens on average, sometimes none."""
    masks = [int((infill(np.arange(10, 110), 0.3, 3, draws(seed, 100), MASK) == MASK).sum()) for seed in range(200)]
    assert 30 / np.mean(masks) == pytest.approx(3, abs=0.3)


def test_lengths_have_the_poisson_distribution():
    """Mean and variance are both `mean`."""
    lengths = _poisson(np.random.default_rng(0).random(100_000), 3.0)
    assert lengths.mean() == pytest.approx(3, abs=0.03)
    assert lengths.var() == pytest.approx(3, abs=0.06)
    assert _poisson(np.array([0.0, 1 - 2**-53]), 3.0).tolist()[0] == 0


@given(st.lists(st.sampled_from([7, 8, 9, 30, 31]), min_size=1, max_size=40), st.integers(0, 99))
def test_permuted_sentences_stay_complete(ids, seed):
    """The same sentences, in any order."""
    stops = np.array([30, 31])

    def sentences(tokens):
        ends = [place + 1 for place, token in enumerate(tokens[:-1]) if token in stops]
        return sorted(tuple(tokens[a:b]) for a, b in zip([0, *ends], [*ends, len(tokens)], strict=True))

    permuted = permute(np.array(ids), stops, np.random.default_rng(seed).random(len(ids))).tolist()
    assert sorted(permuted) == sorted(ids)
    if ids[-1] in stops:
        assert sentences(permuted) == sentences(ids)


def test_every_order_of_sentences_occurs():
    """Three sentences have six orders."""
    ids = np.array([7, 30, 8, 30, 9, 30])
    orders = {tuple(permute(ids, np.array([30]), np.random.default_rng(seed).random(6)).tolist()) for seed in range(50)}
    assert len(orders) == 6
