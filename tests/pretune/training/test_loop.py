from __future__ import annotations

import math

import pytest
import torch

from pretune.data import corpus
from pretune.errors import DivergedError
from pretune.models import build
from pretune.objectives.classification import Classification
from pretune.objectives.masked_lm import MaskedLM
from pretune.training import curve, loop

LABELS = ["kitchen", "sea"]


@pytest.fixture
def learn(documents, words, tiny, params):
    """A function that trains a tiny classifier on sixty easy texts; it returns the model and what was logged."""

    def fit(steps=60, *, seed=0, **settings):
        loop.make_deterministic(seed, 1)
        model = build.classifier(tiny("modernbert"), LABELS)
        objective = Classification(documents, words, LABELS, rows=20, length=32, seed=seed)
        chosen = params.finetune.model_copy(update={"learning_rate": 3e-3} | settings)
        return model, loop.train(model, objective, chosen, steps, lambda _: None)

    return fit


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_each_optimizer_learns_easy_texts_by_heart(learn, name):
    """The loss of sixty rows of two kinds falls from chance to almost nothing."""
    assert learn(1, optimizer=name)[1][0].loss == pytest.approx(math.log(2), abs=0.3)
    assert learn(optimizer=name)[1][-1].loss < 0.05


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_two_identical_runs_give_identical_weights(learn, name):
    """Same seed, same threads: every weight is the same bit for bit, and so is the curve."""
    (first, seen), (second, again) = (learn(12, optimizer=name) for _ in range(2))
    weights = second.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in first.state_dict().items())
    assert [(r.step, r.loss, r.learning_rate) for r in seen] == [(r.step, r.loss, r.learning_rate) for r in again]


def test_another_seed_gives_other_weights(learn):
    """The seed is an input: initial weights and the order of rows follow from it."""
    first, second = (learn(2, seed=seed)[0].state_dict() for seed in (0, 1))
    assert any(not torch.equal(value, second[key]) for key, value in first.items())


def test_bf16_learns_too(learn):
    """Autocast to bf16 keeps weights in fp32 and learns the same easy texts."""
    model, records = learn(precision="bf16")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert records[-1].loss < 0.1


def test_masked_language_modelling_learns_a_small_corpus(tmp_path, words, tiny, params):
    """The same loop pretrains: which of two words alternates with its neighbour is soon no surprise."""
    corpus.write(tmp_path, [[30 + 2 * (row % 9), 31 + 2 * (row % 9)] * 8 for row in range(40)])
    objective = MaskedLM(corpus.Sequences(tmp_path, 16, seed=0), words, 20, 0.3)
    settings = params.pretrain.model_copy(update={"precision": "fp32", "learning_rate": 0.02})
    losses = [loop.train(build.masked_lm(tiny()), objective, settings, n, lambda _: None)[-1].loss for n in (1, 120)]
    assert losses[0] > 0.9 * math.log(len(words))
    assert losses[1] < 0.5


def test_records_come_every_ten_steps_and_at_the_end(learn):
    """Each holds the mean loss since the one before; the reporter is told of all of them."""
    _, records = learn(25)
    assert [record.step for record in records] == [10, 20, 25]


def test_the_reporter_sees_what_is_returned(documents, words, tiny, params):
    """`report` is called with each record as it is made, and the model is left ready to predict."""
    seen = []
    model = build.classifier(tiny(), LABELS)
    objective = Classification(documents, words, LABELS, rows=20, length=32, seed=0)
    assert loop.train(model, objective, params.finetune, 11, seen.append) == seen
    assert not model.training


class BreaksAt:
    """An objective whose loss is not a number at one step."""

    def __init__(self, at, value):
        self.at, self.value = at, value

    def batch(self, step):
        return step

    def loss(self, model, batch):
        loss = sum(p.square().sum() for p in model.parameters())
        return loss * self.value if batch == self.at else loss


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [0, 13])
def test_a_loss_that_is_not_finite_stops_training(tiny, params, at, value):
    """It is never averaged away: the error names the step, counted from one."""
    model = build.classifier(tiny(), LABELS)
    with pytest.raises(DivergedError, match=f"at step {at + 1} of 30"):
        loop.train(model, BreaksAt(at, value), params.finetune, 30, lambda _: None)


def test_the_curve_leaves_out_what_varies(tmp_path):
    """Step, loss and learning rate are written, speed is not."""
    records = [loop.Record(10, 1.23456789, 0.001, 99.9), loop.Record(20, 0.5, 1e-8, 88.8)]
    curve.write(tmp_path / "curve.csv", records)
    expected = "step,loss,learning_rate\n10,1.234568,0.001\n20,0.500000,1e-08\n"
    assert (tmp_path / "curve.csv").read_text(encoding="utf-8") == expected
