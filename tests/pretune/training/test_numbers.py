"""Numbers: loss and gradient of a step, steps that are not finite, validation, the best weights."""

from __future__ import annotations

import math
from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from pretune.data.loading import corpus
from pretune.errors import DivergedError
from pretune.models import build, heads
from pretune.objectives.base import ObjectiveContext
from pretune.objectives.finetuning.classification import Classification
from pretune.objectives.pretraining.causal_lm import CausalLM
from pretune.objectives.pretraining.masked_lm import MaskedLM
from pretune.training import checkpoint, loop, parallel
from pretune.training.checkpoint import Checkpoints
from pretune.training.learner import Learner
from pretune.training.optimizer import materialize

LABELS = ["kitchen", "sea"]
TASKS = ["masked", "causal", "labels"]
ALONE = parallel.single_process()


@pytest.fixture
def setting(params):
    """A function from changes to settings that are otherwise plain."""
    plain = {"batch_size": 8, "precision": "fp32", "optimizer": "adamw", "evaluate_every": 0, "schedule": "constant"}
    plain |= {"warmup": 0.0, "learning_rate": 1e-3, "weight_decay": 0.0}

    def chosen(**special):
        return params.finetune.model_copy(update=plain | special)

    return chosen


@pytest.fixture
def objective(tmp_path, words, documents):
    """A function from a task to an objective; rows hold different numbers of documents, and so of predictions."""
    (tmp_path / "uneven").mkdir()
    uneven = [[(7 * row + place * place) % 300 + 60 for place in range(1 + (row * row) % 23)] for row in range(70)]
    corpus.write(tmp_path / "uneven", uneven)

    def made(task):
        if task == "labels":
            return Classification(documents, ObjectiveContext(words, 32, 0, None, LABELS))
        sequences = corpus.Sequences(tmp_path / "uneven", 16, words.pad_token_id)
        return CausalLM(sequences) if task == "causal" else MaskedLM(sequences, words, rate=0.3, seed=0)

    return made


@pytest.fixture
def model(tiny, words):
    """A function from a task to a model without dropout, always with the same weights."""

    def made(task):
        torch.manual_seed(0)
        if task == "causal":
            shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
            return AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", vocab_size=len(words), **shape))
        return build.new(MaskedLM, tiny()) if task == "masked" else build.new(Classification, tiny(), LABELS)

    return made


@pytest.fixture
def make(model, objective, setting):
    """The three functions above in a namespace."""
    return SimpleNamespace(model=model, objective=objective, settings=setting)


def weights(model):
    """A copy of all weights."""
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first, second):
    """Whether all tensors are the same, bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def flat(tensors):
    """All values in one vector."""
    return torch.cat([value.flatten().double() for value in tensors.values()])


def train(model, objective, settings, steps, **named):
    """loop.train, without reports."""
    return loop.train(model, objective, settings, steps, **{"seed": 0, "report": lambda _: None} | named)


def gradient(model):
    """The gradients of all parameters in one vector."""
    return torch.cat([weight.grad.flatten().double() for weight in model.parameters() if weight.grad is not None])


@pytest.fixture
def stepped(monkeypatch):
    """A function that takes one step on these batches; it returns the gradient before the update, and the loss."""

    def taken(model, objective, settings, batches):
        learner = Learner(model, objective, settings, world=ALONE, strategy="ddp")
        seen = []
        monkeypatch.setattr("pretune.training.optimizer.step", lambda *_: seen.append(gradient(model)))
        learner.step(batches, 0.0)
        return seen[0], learner.read_tally()[0]

    return taken


def divided(objective, sizes):
    """Consecutive samples in parts of these sizes."""
    ends = np.cumsum(sizes)
    return [
        objective.batch(np.zeros(size, dtype=np.int64), np.arange(end - size, end))
        for size, end in zip(sizes, ends, strict=True)
    ]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("sizes", [[8], [4, 4], [1, 5, 2], [1] * 8])
def test_a_step_is_the_mean_over_all_its_rows_however_they_are_divided(make, stepped, task, sizes):
    """Loss and gradient are those of a single batch, though the parts have different counts."""
    objective, settings = make.objective(task), make.settings(gradient_clip=1e9)
    computed, loss = stepped(make.model(task), objective, settings, divided(objective, sizes))
    direct, whole = make.model(task), divided(objective, [8])[0]
    heads.prepare(direct)
    expected = objective.loss(direct.train(), whole) / whole.count
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-6)
    assert (computed - gradient(direct)).norm() < 1e-5 * gradient(direct).norm()


@pytest.mark.parametrize("task", TASKS)
def test_the_mean_of_the_parts_means_would_differ(make, stepped, task):
    """So the test above would notice it: the parts do have different counts."""
    objective, sizes = make.objective(task), [1, 5, 2]
    parts = divided(objective, sizes)
    assert len({part.count for part in parts}) > 1
    computed, _ = stepped(make.model(task), objective, make.settings(gradient_clip=1e9), parts)
    wrong = make.model(task)
    heads.prepare(wrong)
    for part in parts:
        (objective.loss(wrong.train(), part) / part.count / len(parts)).backward()
    assert (computed - gradient(wrong)).norm() > 1e-2 * computed.norm()


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_accumulation_changes_rounding_only(make, task, optimizer):
    """Weights and losses after eight steps in 1, 2 and 4 parts are the same up to rounding."""
    objective, start = make.objective(task), flat(weights(make.model(task)))
    trained_weights, losses = {}, {}
    for parts in (1, 2, 4):
        settings = make.settings(gradient_accumulation_steps=parts, optimizer=optimizer)
        trained, state = train(make.model(task), objective, settings, 8)
        trained_weights[parts], losses[parts] = flat(weights(trained)), state.records[-1].loss
    moved = (trained_weights[1] - start).norm()
    for parts in (2, 4):
        assert losses[parts] == pytest.approx(losses[1], rel=1e-4)
        assert (trained_weights[parts] - trained_weights[1]).norm() < 0.01 * moved


def test_a_gradient_is_clipped_to_its_limit_and_left_alone_below_it(make, stepped):
    """By its norm over all parameters, without a change of direction."""
    objective = make.objective("labels")
    free, _ = stepped(make.model("labels"), objective, make.settings(gradient_clip=1e9), divided(objective, [8]))
    bound, _ = stepped(make.model("labels"), objective, make.settings(gradient_clip=0.01), divided(objective, [8]))
    assert free.norm() > 0.02
    assert bound.norm() == pytest.approx(0.01, rel=1e-3)
    assert torch.allclose(bound / bound.norm(), free / free.norm(), atol=1e-6)


class Breaks:
    """An objective with steps that are not finite: the loss, or its gradient only, of the step's last part."""

    def __init__(self, objective, steps, how, parts=2):
        self._objective, self._steps, self._how, self._parts, self._calls = objective, steps, how, parts, 0
        self.batch, self.score = objective.batch, objective.score

    def __len__(self):
        return len(self._objective)

    def loss(self, model, batch):
        self._calls += 1
        loss = self._objective.loss(model, batch)
        if self._calls % self._parts or self._calls // self._parts not in self._steps:
            return loss
        if self._how == "gradient":
            return loss + (0 * next(model.parameters()).sum()).sqrt()  # zero; its derivative is not a number
        return loss * float(self._how)


HOW = ["nan", "inf", "-inf", "gradient"]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("at", [1, 4])
def test_a_step_that_is_not_finite_touches_nothing(make, how, optimizer, at):
    """Weights and optimizer state stay bit for bit; it is counted as skipped, and the next one is taken."""
    objective = Breaks(make.objective("labels"), {at}, how)
    learner = Learner(make.model("labels"), objective, make.settings(optimizer=optimizer), world=ALONE, strategy="ddp")
    materialize(learner._optimizers)

    def held():
        return {name: value.clone() for name, value in learner.tensors().items() if name != "tally"}

    for step in range(1, 6):
        before = held()
        learner.step(divided(objective, [4, 4]), 1e-3)
        assert same(before, held()) == (step == at)
    loss, counted, skipped = learner.read_tally()
    assert (counted, skipped) == (4, 1)
    assert math.isfinite(loss)


@pytest.mark.parametrize("how", HOW)
def test_training_goes_on_after_as_many_skipped_steps_as_are_allowed(make, how):
    """They are counted and left out of the mean loss."""
    objective = Breaks(make.objective("labels"), {2, 3, 15}, how)
    trained, state = train(
        make.model("labels"), objective, make.settings(gradient_accumulation_steps=2, max_skipped_steps=3), 20
    )
    assert (state.step, state.skipped) == (20, 3)
    assert all(math.isfinite(record.loss) for record in state.records)
    assert state.records[-1].loss < state.records[0].loss
    assert all(value.isfinite().all() for value in trained.state_dict().values())


@pytest.mark.parametrize("how", HOW)
def test_one_more_stops_it_and_the_last_checkpoint_stays(tmp_path, make, how, monkeypatch):
    """With exit code 8, their number, and what to do; the checkpoint is intact and its weights are finite."""
    monkeypatch.setattr(checkpoint, "COST", math.inf)
    objective = Breaks(make.objective("labels"), {2, 15, 16, 17}, how)
    with (
        pytest.raises(DivergedError, match="4 of the first 20 of 30 steps") as caught,
        closing(Checkpoints(tmp_path / "kept", ALONE, every=0.0)) as checkpoints,
    ):
        train(
            make.model("labels"),
            objective,
            make.settings(gradient_accumulation_steps=2, max_skipped_steps=3),
            30,
            checkpoints=checkpoints,
        )
    assert caught.value.exit_code == 8
    assert "learning_rate" in caught.value.next_step
    newest = max((tmp_path / "kept").glob("step-*"))
    checkpoint.verify(newest)
    learner = Learner(make.model("labels"), objective, make.settings(), world=ALONE, strategy="ddp")
    with closing(Checkpoints(tmp_path / "kept", ALONE)) as checkpoints:
        assert learner.resume(checkpoints).step == int(newest.name[5:])
    assert all(value.isfinite().all() for value in learner.tensors().values())


def test_a_run_without_a_finite_step_fails(make):
    """Whatever `max_skipped_steps` is."""
    objective = Breaks(make.objective("labels"), range(100), "nan", parts=1)
    with pytest.raises(DivergedError, match="5 of the first 5 of 5 steps"):
        train(make.model("labels"), objective, make.settings(max_skipped_steps=1000), 5)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("parts", [1, 4])
def test_validation_is_the_mean_over_all_samples(make, task, parts):
    """For rows with different counts, in batches of different sizes: as in a single batch."""
    objective, settings = make.objective(task), make.settings(gradient_accumulation_steps=parts)
    learner = Learner(make.model(task), objective, settings, world=ALONE, strategy="ddp")
    result = learner.validate(objective, 7)
    whole = divided(objective, [len(objective)])[0]
    with torch.no_grad():
        expected = objective.score(learner.model.eval(), whole)
    assert result.step == 7
    assert result.metrics == pytest.approx({name: float(value) / whole.count for name, value in expected.items()})


@pytest.mark.parametrize("task", TASKS)
def test_validation_changes_nothing(make, task):
    """With dropout, weights and losses are those of a run without validation."""
    objective = make.objective(task)

    def run(**settings):
        made = make.model(task)
        for module in made.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.1
        trained, state = train(made, objective, make.settings(**settings), 12, validation=objective)
        return weights(trained), [(record.step, record.loss) for record in state.records], len(state.validations)

    (watched, losses, looks), (alone, expected, none) = run(evaluate_every=1), run()
    assert (looks, none) == (12, 0)
    assert same(watched, alone)
    assert losses == expected


def test_validation_comes_every_so_many_steps_and_at_the_end(make):
    """So the last weights are always validated."""
    objective = make.objective("labels")
    _, state = train(make.model("labels"), objective, make.settings(evaluate_every=4), 10, validation=objective)
    assert [result.step for result in state.validations] == [4, 8, 10]


class Scripted:
    """A validation objective with these scores, one after the other."""

    def __init__(self, objective, scores, name="loss"):
        self._objective, self._scores, self._name = objective, iter(scores), name
        self.batch = objective.batch

    def __len__(self):
        return 1

    def score(self, model, batch):
        return {self._name: torch.tensor(next(self._scores)) * batch.count}


@pytest.mark.parametrize(
    ("metric_for_best_model", "scores", "best"),
    [
        ("loss", [3.0, 2.0, 2.5, 1.0, 4.0, 1.5], 4),
        ("loss", [3.0, 2.0, 2.0, 2.0], 2),
        ("loss", [1.0, 2.0, 3.0], 1),
        ("loss", [math.nan, 2.0, math.nan, 3.0], 2),
        ("accuracy", [0.1, 0.9, 0.5, 0.9], 2),
        ("accuracy", [0.5, 0.1, 0.6], 3),
        ("cross_entropy", [3.0, 2.0, 2.5], 2),
    ],
)
def test_the_best_weights_are_those_of_the_best_validation(make, metric_for_best_model, scores, best):
    """The first of equals; they are the weights of a run of that length."""
    objective = make.objective("labels")
    settings = make.settings(evaluate_every=1, metric_for_best_model=metric_for_best_model)
    watch = Scripted(objective, scores, metric_for_best_model)
    trained, state = train(make.model("labels"), objective, settings, len(scores), validation=watch)
    assert state.best == best - 1
    ended_there, _ = train(make.model("labels"), objective, make.settings(), best)
    assert same(weights(trained), weights(ended_there))


@pytest.mark.parametrize(
    ("patience", "scores", "steps"),
    [
        (1, [3.0, 2.0, 2.0], 3),
        (2, [3.0, 2.0, 2.5, 1.0, 1.5, 1.2], 6),
        (2, [3.0, 2.0, 1.0, 0.9, 0.8, 0.7], 20),
        (0, [1.0, 2.0], 20),
        (1, [1.0, math.nan], 2),
    ],
)
def test_patience_ends_training_after_so_many_validations_without_a_better_one(make, patience, scores, steps):
    """The best weights are returned, and the last steps are recorded."""
    objective = make.objective("labels")
    better = [0.5 - 0.01 * step for step in range(20)]
    settings = make.settings(evaluate_every=1, metric_for_best_model="loss", patience=patience)
    trained, state = train(
        make.model("labels"), objective, settings, 20, validation=Scripted(objective, [*scores, *better])
    )
    assert state.step == steps
    assert state.records[-1].step == steps
    ended_there, _ = train(make.model("labels"), objective, make.settings(), state.best + 1)
    assert same(weights(trained), weights(ended_there))
