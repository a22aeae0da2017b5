"""Validation by a metric of generated text."""

from __future__ import annotations

import pytest

from pretune.config.params import ModelParams, TrainingParams
from pretune.evaluation.metrics import text
from pretune.evaluation.metrics.bootstrap import Bootstrap
from pretune.models import build
from pretune.objectives import generated
from pretune.objectives.finetuning.instruction import Instruction
from pretune.objectives.predictions import Texts
from pretune.training import loop
from tests.contracts import samples

ROWS = [{"messages": messages} for messages in samples.COLUMNS["messages"]]
SETTINGS = samples.TRAINING | {"evaluate_every": 2, "objective": "instruction"}


@pytest.fixture
def train(words, deterministic):
    """A function that trains the smallest Llama with dropout by a metric; the model, the state, the validation rows."""

    def run(metric, steps=6):
        import torch

        torch.manual_seed(0)
        context = samples.context("instruction", words)
        shape = samples.FAMILIES["llama"]
        config = build.config_for(ModelParams(type="llama", init=None, config=shape), build.text_shape(words))
        objective, validation = Instruction(ROWS, context), Instruction(ROWS[:4], context)
        params = TrainingParams.model_validate(SETTINGS | {"metric_for_best_model": metric, "learning_rate": 0.05})
        reports = []
        model, state = loop.train(
            build.new(Instruction, config), objective, params, steps, seed=0, report=reports.append,
            validation=validation,
        )  # fmt: skip
        return model, state, validation

    return run


def test_the_best_weights_are_those_of_the_best_texts(train):
    """They give the figure that was measured; training takes the same steps as without it."""
    model, state, validation = train("chrf")
    figures = [each.metrics["chrf"] for each in state.validations]
    assert len(set(figures)) > 1
    assert state.best == figures.index(max(figures))
    assert generated.measure(validation.predict(model), "chrf") == max(figures)
    _, plain, _ = train("last")
    assert [record.loss for record in plain.records] == [record.loss for record in state.records]
    assert [each.metrics["loss"] for each in plain.validations] == [each.metrics["loss"] for each in state.validations]
    assert "chrf" not in plain.validations[0].metrics


def test_the_figures_are_those_of_the_evaluation():
    """The same names, the same values."""
    texts = Texts(["the sea is salt today", "an oven", "flour"], ["the sea is salty today", "an oven ", "butter"])
    metrics = text.texts(texts)
    assert set(metrics) == set(generated.METRICS)
    estimates = Bootstrap(3, 10, 0.9, 0).estimates({name: metric.measure for name, metric in metrics.items()})
    for name, estimate in estimates.items():
        assert generated.measure(texts, name) == pytest.approx(estimate.as_dict()["value"], abs=1e-4)
