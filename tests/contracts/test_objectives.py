"""Contracts of every objective, with every family and adaptation that suit it. The tables list new ones too."""

from __future__ import annotations

import importlib.util
import math
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pretune.adaptation import methods, quantization
from pretune.config.params import TrainingParams
from pretune.errors import ParamsError
from pretune.models import heads, layers
from pretune.objectives import registry
from pretune.objectives.finetuning.table import OBJECTIVES as FINETUNING
from pretune.objectives.predictions import (
    Classes,
    Judgements,
    Likelihoods,
    ManyLabels,
    Numbers,
    Preferences,
    Rankings,
)
from pretune.objectives.pretraining.table import OBJECTIVES as PRETRAINING
from pretune.objectives.requirements import WRITERS

SPEC = importlib.util.spec_from_file_location("samples", Path(__file__).parent / "samples.py")
samples = importlib.util.module_from_spec(SPEC)
sys.modules["samples"] = samples
SPEC.loader.exec_module(samples)

EVERY_PAIR = pytest.mark.parametrize(("name", "family"), samples.pairs(samples.objectives()))
EVERY_DIVISIBLE = pytest.mark.parametrize(
    ("name", "family"),
    [pair for pair in samples.pairs(samples.objectives()) if not samples.objectives()[pair[0]].whole_batch],
)
EVERY_PRETRAINING = pytest.mark.parametrize(("name", "family"), samples.pairs(PRETRAINING))


def every_finetuning():
    """Every pair with every adaptation; nightly unless it covers a new pair of method with objective or family."""
    pairs = samples.pairs(FINETUNING)
    triples = [(*pair, method) for pair in pairs for method in samples.ADAPTATIONS]
    seen, chosen = set(), {triple for triple in triples if triple[2] == "full"}
    for new in (2, 1):  # first those that are new for both the objective and the family
        for name, family, method in triples:
            unseen = {(name, method), (family, method)} - seen
            if len(unseen) >= new:
                seen |= unseen
                chosen.add((name, family, method))
    return [pytest.param(*triple, marks=[] if triple in chosen else pytest.mark.nightly) for triple in triples]


@pytest.fixture
def make(words, tmp_path):
    """A function from an objective's name to the objective on the samples."""
    return lambda name: samples.objective(name, words, tmp_path / "corpus")


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """The folder of pretrained models of the families, made once."""
    return tmp_path_factory.mktemp("pretrained")


@pytest.fixture
def places(pretrained, tmp_path):
    """The folder of pretrained models, and one of the test's own."""
    return pretrained, tmp_path


def test_every_family_of_ours_learns_something():
    """Each family in the samples is tested with some objective, and each objective with some family."""
    tested = samples.pairs(samples.objectives())
    assert {family for _, family in tested} == set(samples.FAMILIES)
    assert {name for name, _ in tested} == set(samples.objectives())


def test_every_adaptation_of_ours_is_tested():
    """All methods of METHODS; those of peft are tested in tests/pretune/adaptation, some of them here too."""
    assert set(methods.METHODS) < set(samples.ADAPTATIONS)


def test_a_checkpoint_is_asked_as_it_came_by_every_objective_that_writes_text():
    """A decoder and an encoder-decoder write with the head that they come with; only a new head has to be trained."""
    asked = {name for name, objective in FINETUNING.items() if objective.answers_untrained}
    assert {name for name, objective in FINETUNING.items() if objective.answers in {*WRITERS, "written"}} <= asked


@pytest.mark.parametrize("table", [PRETRAINING, FINETUNING])
def test_a_family_that_cannot_learn_an_objective_is_refused_with_what_it_can(table):
    """Every invalid pair: the message names objectives for the model, and models for the objective."""
    valid = samples.pairs(table)
    for name, family in [(name, family) for name in table for family in samples.FAMILIES]:
        params = TrainingParams(**samples.TRAINING | {"objective": name, "settings": samples.SETTINGS.get(name, {})})
        problems = registry.problems(table, "section", params, family)
        if (name, family) in valid:
            assert problems == []
            continue
        able = [objective for objective, other in valid if other == family]
        assert f"{name} is not for model.type {family}" in problems[0]
        assert (
            f"that model learns: {', '.join(able)};" if able else "no section objective is for that model"
        ) in problems[0]
        assert f"{name} is for: " in problems[0]


@EVERY_PAIR
def test_a_batch_gives_a_finite_loss_that_its_score_repeats(name, family, words, make):
    """Counts are positive, the loss is finite, and `score` has exactly the keys `metrics`."""
    objective, model = make(name), samples.new(name, family, words)
    heads.prepare(model)
    batch = samples.everything(objective)
    assert batch.count > 0
    assert batch.tokens > 0
    assert any(isinstance(getattr(batch, field.name), torch.Tensor) for field in fields(batch))
    model.eval()
    with torch.no_grad():
        loss, score = objective.loss(model, batch), objective.score(model, batch)
    assert loss.shape == ()
    assert math.isfinite(loss)
    assert set(score) == set(objective.metrics)
    torch.testing.assert_close(score["loss"], loss)


@EVERY_DIVISIBLE
def test_the_loss_of_a_batch_is_the_sum_of_the_losses_of_its_samples(name, family, words, make):
    """So a step does not depend on how its rows are divided into batches."""
    objective, model = make(name), samples.new(name, family, words).eval()
    heads.prepare(model)
    with torch.no_grad():
        whole = objective.loss(model, samples.everything(objective))
        parts = [
            objective.loss(model, objective.batch(np.zeros(1, dtype=int), np.array([n]))) for n in range(len(objective))
        ]
    torch.testing.assert_close(sum(parts), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "family"), [pair for pair in samples.pairs(samples.objectives()) if pair[0] != "grpo"]
)
def test_training_overfits_one_batch(name, family, words, make):
    """On the same batch again and again the loss falls by half within 40 steps: the gradients are right."""
    objective, model = make(name), samples.new(name, family, words).eval()
    heads.prepare(model)
    batch = samples.everything(objective)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    losses = []
    while not losses or losses[-1] >= 0.5 * losses[0]:
        assert len(losses) < 40, losses
        loss = objective.loss(model, batch) / batch.count
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())


@EVERY_PRETRAINING
def test_pretraining_resumes_to_the_same_bits_and_is_saved(name, family, words, make, tmp_path):
    """Resumed after three steps, the weights are those of an uninterrupted run; the saved model predicts."""
    from pretune.predictor.model import Predictor

    first, began = samples.train(samples.new(name, family, words), make(name), tmp_path / "one")
    again, resumed = samples.train(samples.new(name, family, words), make(name), tmp_path / "one")
    assert (began, resumed) == (0, 3)
    assert samples.same(first, again)
    model = Predictor(str(samples.saved(first, name, words, tmp_path / "model")))
    example = samples.objectives()[name].example(samples.context(name, words))
    answers = model.predict(pd.DataFrame([example]))
    assert len(answers) == 1
    assert list(answers.columns) == list(model.answers.gives)


@pytest.mark.parametrize(("name", "family", "method"), every_finetuning())
def test_finetuning_resumes_to_the_same_bits_and_predicts_as_in_training(name, family, method, words, places):
    """Resumed after three steps, the weights are the same; frozen ones do not change; saved, it predicts the same."""
    from pretune.predictor.model import Predictor

    folder, tmp_path = places
    if not suits(method, name, family, words, folder / family):
        with pytest.raises(ParamsError, match=r"no head of its own|has 0|no layers|no linear modules"):
            samples.adapted(name, family, method, words, folder / family)
        return
    objective = samples.objective(name, words, tmp_path)
    models, frozen, start = [], {}, {}
    for began in (0, 3):
        model, schedule = samples.adapted(name, family, method, words, folder / family)
        start = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
        frozen = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
        model, resumed = samples.train(model, objective, tmp_path / "one", unfreeze_schedule=schedule)
        assert resumed == began
        models.append(model)
    assert samples.same(*models)
    now = dict(models[0].named_parameters())
    assert all(torch.equal(value, now[n]) for n, value in frozen.items())
    assert any(not torch.equal(value, now[n]) for n, value in start.items())

    before = objective.predict(models[0])
    path = samples.saved(models[0], name, words, tmp_path / "model")
    objective_class = samples.objectives()[name]
    loaded, new_weights = samples.build.load(objective_class, path)
    assert not new_weights
    assert_alike(objective.predict(loaded.eval()), before)
    predictor = Predictor(str(path))
    prompts = [messages[:-1] for messages in samples.COLUMNS["messages"]]  # the last message is the answer
    inputs = samples.COLUMNS | {"messages": prompts}
    columns = [column for column in objective_class.columns if column in predictor.answers.reads]
    table = pd.DataFrame({column: inputs[column] for column in columns})
    assert_answers(predictor.predict(table), before)


def assert_answers(answers, expected):
    """The predictions of MLflow's model are those of training."""
    assert len(answers) == len(samples.TEXTS)
    if isinstance(expected, Classes):
        assert list(answers["label"]) == [expected.names[index] for index in expected.probabilities.argmax(axis=1)]
        np.testing.assert_allclose(answers["score"], expected.probabilities.max(axis=1), rtol=1e-4)
    elif isinstance(expected, ManyLabels):
        assert list(answers["labels"]) == [
            [name for name, p in zip(expected.names, row, strict=True) if p > 0.5] for row in expected.probabilities
        ]
    elif isinstance(expected, Numbers):
        predicted = np.array([np.ravel(value) for value in answers.iloc[:, 0]])
        np.testing.assert_allclose(predicted, expected.predicted, rtol=1e-4, atol=1e-5)
    elif isinstance(expected, Rankings):  # the predictor gives the vectors that the ranks follow from
        np.testing.assert_allclose(np.linalg.norm(np.stack(answers["vector"]), axis=1), 1, rtol=1e-5)
    elif isinstance(expected, Preferences):
        if "text" in answers:
            assert list(answers["text"]) == expected.replies
    elif not isinstance(expected, Likelihoods | Judgements):  # the predictor writes texts instead
        assert list(answers.iloc[:, 0]) == expected.predicted


def suits(method, name, family, words, folder):
    """Whether the model has what a method trains: a head that is not the embeddings, or layers."""
    model, new_weights = samples.pretrained(name, family, words, folder)
    if method == "head":
        return bool(new_weights or methods.head(model))
    if method == "qlora":
        return bool(quantization.matrices(model))
    return method in {"full", "gradual"} or layers.count(model) > 0


def assert_alike(predicted, expected):
    """The same predictions up to rounding."""
    assert type(predicted) is type(expected)
    for field in fields(predicted):
        one, other = getattr(predicted, field.name), getattr(expected, field.name)
        if isinstance(one, np.ndarray):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
        elif field.name == "best":
            assert [[text for text, _ in row] for row in one] == [[text for text, _ in row] for row in other]
            np.testing.assert_allclose(
                [p for row in one for _, p in row], [p for row in other for _, p in row], rtol=1e-4
            )
        else:
            assert one == other
