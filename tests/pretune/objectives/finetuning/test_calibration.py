"""Calibration: label smoothing in training, temperature scaling afterwards."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from pretune.config.params import validate
from pretune.errors import ParamsError
from pretune.evaluation.metrics import confidence
from pretune.models import build, heads
from pretune.objectives.base import ObjectiveContext
from pretune.objectives.finetuning import calibration
from pretune.objectives.finetuning.binary import Binary
from pretune.objectives.finetuning.classification import Classification
from pretune.objectives.finetuning.multi_label import MultiLabel
from pretune.objectives.finetuning.table import OBJECTIVES
from pretune.objectives.predictions import Classes, ManyLabels
from pretune.objectives.registry import choose
from pretune.predictor.model import Predictor

LABELS = ["kitchen", "sea"]
TEXTS = {"classification": Classification, "binary": Binary, "multi_label": MultiLabel}


@given(st.floats(0.2, 8.0), st.integers(0, 99))
def test_the_temperature_recovers_the_scale_of_logits(factor, seed):
    """Labels are drawn from the softmax of logits: for those logits times `factor` the temperature is `factor`."""
    generator = torch.Generator().manual_seed(seed)
    honest = torch.randn(4000, 3, generator=generator) * 2
    targets = torch.multinomial(torch.softmax(honest, -1), 1, generator=generator)[:, 0]
    fitted = calibration.temperature(honest * factor, targets, functional.cross_entropy)
    assert fitted == pytest.approx(factor, rel=0.12)
    lowest = functional.cross_entropy((honest * factor).double() / fitted, targets)
    for other in (0.97, 1.03):
        assert functional.cross_entropy((honest * factor).double() / (fitted * other), targets) > lowest


@given(st.floats(0.3, 5.0), st.integers(0, 99))
def test_probabilities_without_the_temperature_follow_from_those_with_it(temperature, seed):
    """For one class in each row, and for any number of them."""
    logits = torch.randn(20, 4, generator=torch.Generator().manual_seed(seed))
    names, targets = list("abcd"), np.zeros(20, dtype=np.int64)
    one = Classes(names, targets, torch.softmax(logits / temperature, -1).numpy())
    many = ManyLabels(names, np.zeros((20, 4), dtype=bool), torch.sigmoid(logits / temperature).numpy())
    before = confidence.raise_to_power(one, temperature).probabilities
    np.testing.assert_allclose(before, torch.softmax(logits, -1).numpy(), rtol=1e-3, atol=1e-5)
    before = confidence.raise_to_power(many, temperature).probabilities
    np.testing.assert_allclose(before, torch.sigmoid(logits).numpy(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", TEXTS)
def test_a_model_answers_by_its_temperature_wherever_it_is_asked(name, documents, words, tiny, tmp_path):
    """Evaluation and the saved model divide by it, predict the same, and predict the same labels as without it."""
    objective_class = TEXTS[name]
    rows = [row | {"labels": [row["label"]]} for row in documents]
    plain = ObjectiveContext(words, 32, 0, None, LABELS)
    model = build.new(objective_class, tiny(), LABELS).eval()
    with torch.no_grad():
        model.classifier.weight *= 8
    warm = ObjectiveContext(words, 32, 0, None, LABELS, temperature=3.0)
    before, after = (objective_class(rows, context).predict(model) for context in (plain, warm))
    undone = confidence.raise_to_power(after, 3.0)
    np.testing.assert_allclose(undone.probabilities, before.probabilities, atol=1e-4)
    assert (before.probabilities.argmax(1) == after.probabilities.argmax(1)).all()
    build.save(model, words, tmp_path / "model", objective_class.inference_config(warm))
    assert json.loads((tmp_path / "model" / "pretune.json").read_text())["temperature"] == 3.0
    answers = Predictor(str(tmp_path / "model")).answers(rows)
    if name == "multi_label":
        scores = [p for row in after.probabilities.tolist() for p in row if p > 0.5]
        assert [p for answer in answers for p in answer["scores"]] == pytest.approx(scores)
    else:
        assert [answer["score"] for answer in answers] == pytest.approx(after.probabilities.max(1).tolist())


@pytest.mark.parametrize("name", TEXTS)
def test_smoothed_labels_are_learnt_and_plain_ones_are_measured(name, documents, words, tiny):
    """The training loss has targets mixed with the uniform distribution, the validation loss has not."""
    objective_class, share = TEXTS[name], 0.2
    rows = [row | {"labels": [row["label"]]} for row in documents]
    plain, soft = (
        objective_class(rows, ObjectiveContext(words, 32, 0, None, LABELS, label_smoothing=s)) for s in (0.0, share)
    )
    model = build.new(objective_class, tiny(), LABELS).eval()
    heads.prepare(model)
    with torch.no_grad():
        model.classifier.weight *= 8
        batch = plain.batch(np.zeros(60, dtype=int), np.arange(60))
        assert soft.score(model, batch)["loss"] == plain.score(model, batch)["loss"] == plain.loss(model, batch)
        logits = heads.classify(model, batch.packed).double()
        right = functional.one_hot(torch.tensor([LABELS.index(row["label"]) for row in rows]), 2).double()
        aims = right * (1 - share) + share / 2
        if name == "classification":
            expected = -(aims * logits.log_softmax(-1)).sum()
        else:  # log p of yes and of no, for each output
            yes, no = functional.logsigmoid(logits), functional.logsigmoid(-logits)
            targets = aims[:, -logits.shape[1] :]
            expected = -(targets * yes + (1 - targets) * no).mean(1).sum()
        assert float(soft.loss(model, batch)) == pytest.approx(float(expected), rel=1e-4)


def test_an_objective_without_classes_is_neither_smoothed_nor_calibrated(params):
    """Settings that do not suit the objective are refused before work, and so is calibration without rows."""
    section = params.finetune.model_copy(update={"objective": "regression", "label_smoothing": 0.1, "calibrate": True})
    with pytest.raises(ParamsError) as error:
        choose(OBJECTIVES, "finetune", section, "bert")
    assert [problem.split(":")[0] for problem in error.value.problems] == [
        "finetune.label_smoothing",
        "finetune.calibrate",
    ]
    data = params.model_dump()
    data["prepare"]["validation_rows"] = 0
    data["finetune"] |= {"evaluate_every": 0, "calibrate": True}
    with pytest.raises(ParamsError, match=r"finetune.calibrate needs prepare.validation_rows"):
        validate(data)
