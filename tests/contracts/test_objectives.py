"""Every objective with every family and adaptation that suit it: found in the tables, so new ones are tested too."""

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

from pretune.adaptation import methods
from pretune.config.params import TrainingParams
from pretune.errors import ParamsError
from pretune.models import heads, layers
from pretune.objectives import registry
from pretune.objectives.finetuning.table import OBJECTIVES as FINETUNING
from pretune.objectives.predictions import Classes, Likelihoods, ManyLabels, Numbers
from pretune.objectives.pretraining.table import OBJECTIVES as PRETRAINING

SPEC = importlib.util.spec_from_file_location("samples", Path(__file__).parent / "samples.py")
samples = importlib.util.module_from_spec(SPEC)
sys.modules["samples"] = samples
SPEC.loader.exec_module(samples)

EVERY_PAIR = pytest.mark.parametrize(("name", "family"), samples.pairs(samples.objectives()))
EVERY_PRETRAINING = pytest.mark.parametrize(("name", "family"), samples.pairs(PRETRAINING))


def every_finetuning():
    """Every pair with every adaptation: nightly, but for those that prove something that none before them has."""
    pairs = samples.pairs(FINETUNING)
    triples = [(*pair, method) for pair in pairs for method in samples.ADAPTATIONS]
    seen, chosen = set(), {triple for triple in triples if triple[2] == "full"}
    for new in (2, 1):  # first those that are new for the objective and for the family
        for name, family, method in triples:
            found = {(name, method), (family, method)} - seen
            if len(found) >= new:
                seen |= found
                chosen.add((name, family, method))
    return [pytest.param(*triple, marks=[] if triple in chosen else pytest.mark.nightly) for triple in triples]


@pytest.fixture
def what(words, tmp_path):
    """A function from an objective's name to the objective on the samples."""
    return lambda name: samples.objective(name, words, tmp_path / "corpus")


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """Where pretrained models of the families lie, made once."""
    return tmp_path_factory.mktemp("pretrained")


@pytest.fixture
def places(pretrained, tmp_path):
    """Where pretrained models lie, and a folder of the test's own."""
    return pretrained, tmp_path


def test_every_family_of_ours_learns_something():
    """No family is in the samples that no objective is tested with; each objective has one at least."""
    tested = samples.pairs(samples.objectives())
    assert {family for _, family in tested} == set(samples.FAMILIES)
    assert {name for name, _ in tested} == set(samples.objectives())


def test_every_adaptation_of_ours_is_tested():
    """Those of peft are tested one by one in tests/pretune/adaptation, some of them here too."""
    assert set(methods.METHODS) < set(samples.ADAPTATIONS)


@pytest.mark.parametrize("table", [PRETRAINING, FINETUNING])
def test_a_family_that_cannot_learn_an_objective_is_refused_with_what_it_can(table):
    """Every invalid pair: what the model learns instead is named, and models that would learn the objective."""
    valid = samples.pairs(table)
    for name, family in [(name, family) for name in table for family in samples.FAMILIES]:
        asked = TrainingParams(**samples.TRAINING | {"objective": name, "settings": samples.SETTINGS.get(name, {})})
        found = registry.problems(table, "section", asked, family)
        if (name, family) in valid:
            assert found == []
            continue
        able = [other for other, each in valid if each == family]
        assert f"{name} is not for model.type {family}" in found[0]
        assert (
            f"that model learns: {', '.join(able)};" if able else "no section objective is for that model"
        ) in found[0]
        assert f"{name} is for: " in found[0]


@EVERY_PAIR
def test_a_batch_gives_a_finite_loss_that_its_score_repeats(name, family, words, what):
    """Counts are positive, the sum is finite, `score` has exactly the metrics that may be selected by."""
    objective, model = what(name), samples.new(name, family, words)
    heads.prepare(model)
    batch = samples.everything(objective)
    assert batch.count > 0
    assert batch.tokens > 0
    assert any(isinstance(getattr(batch, each.name), torch.Tensor) for each in fields(batch))
    model.eval()
    with torch.no_grad():
        loss, score = objective.loss(model, batch), objective.score(model, batch)
    assert loss.shape == ()
    assert math.isfinite(loss)
    assert set(score) == set(objective.metrics)
    torch.testing.assert_close(score["loss"], loss)


@EVERY_PAIR
def test_the_loss_of_a_batch_is_the_sum_of_the_losses_of_its_samples(name, family, words, what):
    """However rows are divided into batches, a step is the same."""
    objective, model = what(name), samples.new(name, family, words).eval()
    heads.prepare(model)
    with torch.no_grad():
        whole = objective.loss(model, samples.everything(objective))
        parts = [
            objective.loss(model, objective.batch(np.zeros(1, dtype=int), np.array([n]))) for n in range(len(objective))
        ]
    torch.testing.assert_close(sum(parts), whole, rtol=1e-4, atol=1e-4)


@EVERY_PAIR
def test_one_batch_is_learnt_by_heart(name, family, words, what):
    """A model that sees the same rows again and again answers them ever better: gradients lead where they should."""
    objective, model = what(name), samples.new(name, family, words).eval()
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
def test_pretraining_goes_on_to_the_same_bits_and_is_saved(name, family, words, what, tmp_path):
    """Stopped after three steps or not; the saved model answers."""
    from pretune.predictor.model import Predictor

    first, began = samples.train(samples.new(name, family, words), what(name), tmp_path / "one")
    again, resumed = samples.train(samples.new(name, family, words), what(name), tmp_path / "one")
    assert (began, resumed) == (0, 3)
    assert samples.same(first, again)
    model = Predictor(str(samples.saved(first, name, words, tmp_path / "model")))
    example = samples.objectives()[name].example(samples.given(name, words))
    answers = model.predict(pd.DataFrame([example]))
    assert len(answers) == 1
    assert list(answers.columns) == list(model.answers.gives)


@pytest.mark.parametrize(("name", "family", "method"), every_finetuning())
def test_finetuning_goes_on_to_the_same_bits_and_answers_as_in_training(name, family, method, words, places):
    """Stopped after three steps or not; what is frozen stays; loaded from its folder, it answers as before."""
    from pretune.predictor.model import Predictor

    folder, tmp_path = places
    if not suits(method, name, family, words, folder / family):
        with pytest.raises(ParamsError, match=r"no head of its own|has 0|no layers"):
            samples.adapted(name, family, method, words, folder / family)
        return
    objective = samples.objective(name, words, tmp_path)
    models, frozen, start = [], {}, {}
    for began in (0, 3):
        model, opens = samples.adapted(name, family, method, words, folder / family)
        start = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
        frozen = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
        model, resumed = samples.train(model, objective, tmp_path / "one", unfreeze_schedule=opens)
        assert resumed == began
        models.append(model)
    assert samples.same(*models)
    now = dict(models[0].named_parameters())
    assert all(torch.equal(value, now[n]) for n, value in frozen.items())
    assert any(not torch.equal(value, now[n]) for n, value in start.items())

    before = objective.predict(models[0])
    path = samples.saved(models[0], name, words, tmp_path / "model")
    kind = samples.objectives()[name]
    loaded, fresh = samples.build.load(kind, path)
    assert not fresh
    assert_alike(objective.predict(loaded.eval()), before)
    predictor = Predictor(str(path))
    asked = samples.COLUMNS | {
        "messages": [each[:-1] for each in samples.COLUMNS["messages"]]
    }  # the last is the answer
    table = pd.DataFrame({column: asked[column] for column in kind.columns if column in predictor.answers.reads})
    assert_answers(predictor.predict(table), before)


def assert_answers(answers, found):
    """What MLflow's model says is what was predicted in training."""
    assert len(answers) == len(samples.TEXTS)
    if isinstance(found, Classes):
        assert list(answers["label"]) == [found.names[each] for each in found.probabilities.argmax(axis=1)]
        np.testing.assert_allclose(answers["score"], found.probabilities.max(axis=1), rtol=1e-4)
    elif isinstance(found, ManyLabels):
        assert list(answers["labels"]) == [
            [name for name, p in zip(found.names, row, strict=True) if p > 0.5] for row in found.probabilities
        ]
    elif isinstance(found, Numbers):
        said = np.array([np.ravel(each) for each in answers.iloc[:, 0]])
        np.testing.assert_allclose(said, found.predicted, rtol=1e-4, atol=1e-5)
    elif not isinstance(found, Likelihoods):  # of a text that goes on there is nothing to compare
        assert list(answers.iloc[:, 0]) == found.predicted


def suits(method, name, family, words, folder):
    """Whether there is what a method trains: a head that is not the embeddings, or layers."""
    model, fresh = samples.pretrained(name, family, words, folder)
    if method == "head":
        return bool(fresh or methods.head(model))
    return method in {"full", "gradual"} or layers.count(model) > 0


def assert_alike(found, expected):
    """The same predictions, but for rounding."""
    assert type(found) is type(expected)
    for each in fields(found):
        one, other = getattr(found, each.name), getattr(expected, each.name)
        if isinstance(one, np.ndarray):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
        elif each.name == "best":
            assert [[text for text, _ in row] for row in one] == [[text for text, _ in row] for row in other]
            np.testing.assert_allclose(
                [p for row in one for _, p in row], [p for row in other for _, p in row], rtol=1e-4
            )
        else:
            assert one == other
