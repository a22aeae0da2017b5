from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pretune.models import build
from pretune.objectives.masked_lm import MaskedLM

FAMILIES = ["modernbert", "bert", "roberta"]


@given(rate=st.floats(0.001, 0.999), step=st.integers(0, 100), rows=st.integers(1, 8))
def test_the_same_number_of_tokens_is_hidden_in_every_row(sequences, words, rate, step, rows):
    """round(rate * length) places a row, one at least, all different."""
    batch = MaskedLM(sequences, words, rows, rate).batch(step)
    hidden = max(1, round(rate * 16))
    assert len(set(batch.positions.tolist())) == len(batch.positions) == rows * hidden
    assert torch.bincount(batch.positions // 16, minlength=rows).tolist() == [hidden] * rows


@given(rate=st.floats(0.001, 0.999), step=st.integers(0, 100))
def test_targets_are_the_tokens_that_were_there(sequences, words, rate, step):
    """The targets are the original tokens, and what is not hidden is shown as it is."""
    batch = MaskedLM(sequences, words, 4, rate).batch(step)
    original = torch.from_numpy(sequences.batch(step, 4)).flatten()
    assert torch.equal(original[batch.positions], batch.targets)
    shown = torch.ones(len(original), dtype=torch.bool)
    shown[batch.positions] = False
    assert torch.equal(batch.input_ids.flatten()[shown], original[shown])


def test_hidden_tokens_are_masked_kept_or_replaced(sequences, words):
    """About eight in ten are [MASK], one as it was, one random and never a special token."""
    objective = MaskedLM(sequences, words, 40, 0.5)
    batches = [objective.batch(step) for step in range(20)]
    seen = torch.cat([b.input_ids.flatten()[b.positions] for b in batches])
    targets = torch.cat([b.targets for b in batches])
    masked, kept = seen == words.mask_token_id, seen == targets
    assert masked.float().mean() == pytest.approx(0.8, abs=0.03)
    assert kept.float().mean() == pytest.approx(0.1, abs=0.03)
    random = seen[~masked & ~kept]
    assert not set(random.tolist()) & set(words.all_special_ids)
    assert len(set(random.tolist())) > 200


def test_a_batch_depends_on_seed_and_step_alone(sequences, words):
    """Same seed and step: same batch, whatever was asked before; another step: another one."""
    first, second = (MaskedLM(sequences, words, 4, 0.3) for _ in range(2))
    second.batch(0)
    for name in ("input_ids", "positions", "targets"):
        assert torch.equal(getattr(first.batch(7), name), getattr(second.batch(7), name))
    assert not torch.equal(first.batch(7).positions, first.batch(8).positions)
    sequences.seed = 1
    assert not torch.equal(first.batch(7).positions, second.batch(8).positions)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_the_models_own(sequences, words, tiny, family):
    """Projecting hidden places only gives what transformers computes over all places, gradients included."""
    model = build.masked_lm(tiny(family)).eval()
    objective = MaskedLM(sequences, words, 4, 0.3)
    batch = objective.batch(0)
    labels = torch.full((batch.input_ids.numel(),), -100)
    labels[batch.positions] = batch.targets
    losses = [
        objective.loss(model, batch),
        model(input_ids=batch.input_ids, labels=labels.view_as(batch.input_ids)).loss,
    ]
    assert torch.allclose(losses[0], losses[1], rtol=1e-5)
    gradients = [torch.autograd.grad(loss, next(iter(model.parameters())))[0] for loss in losses]
    assert torch.allclose(gradients[0], gradients[1], atol=1e-6)
