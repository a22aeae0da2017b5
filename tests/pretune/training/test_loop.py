"""The whole loop: it learns, it is deterministic, and it returns a model that transformers runs."""

from __future__ import annotations

import math
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from pretune.data.loading import corpus, varlen
from pretune.models import build, heads
from pretune.objectives.base import ObjectiveContext
from pretune.objectives.finetuning.classification import Classification
from pretune.objectives.pretraining.causal_lm import CausalLM
from pretune.objectives.pretraining.masked_lm import MaskedLM
from pretune.predictor.text import Class
from pretune.training import device, loop
from pretune.training.job import Job, run_training

LABELS = ["kitchen", "sea"]


@pytest.fixture
def learn(documents, words, tiny, params):
    """A function that trains a tiny classifier on sixty easy texts; it returns the model and the state."""

    def fit(steps=60, *, seed=0, family="modernbert", report=lambda _: None, validation=None, **settings):
        device.prepare(seed, 1)
        model = build.new(Classification, tiny(family), LABELS)
        objective = Classification(documents, ObjectiveContext(words, 32, 0, None, LABELS))
        plain = {"learning_rate": 3e-3, "batch_size": 20, "evaluate_every": 0}
        section = params.finetune.model_copy(update=plain | settings)
        return loop.train(model, objective, section, steps, seed=seed, report=report, validation=validation)

    return fit


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "wsd"])
def test_every_optimizer_overfits_easy_texts_on_every_schedule(learn, name, schedule):
    """The loss on sixty rows of two classes falls to almost zero."""
    _, state = learn(optimizer=name, schedule=schedule)
    assert state.records[0].loss > 0.05
    assert state.records[-1].loss < 0.05


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_two_identical_runs_give_identical_weights(learn, name):
    """With the same seed and threads, weights and curve are the same bit for bit."""
    (first, seen), (second, again) = (learn(12, optimizer=name, family="bert") for _ in range(2))
    weights = second.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in first.state_dict().items())
    assert [(r.step, r.loss, r.learning_rate) for r in seen.records] == [
        (r.step, r.loss, r.learning_rate) for r in again.records
    ]


def test_another_seed_gives_other_weights(learn):
    """Initial weights and the order of rows follow from the seed."""
    first, second = (learn(2, seed=seed)[0].state_dict() for seed in (0, 1))
    assert any(not torch.equal(value, second[key]) for key, value in first.items())


def test_averaged_weights_are_validated_and_returned(learn, tiny, words, documents):
    """After each step they move by 1 - decay; the decay rises to `ema_decay` from 0.1 in the first step."""
    every = [learn(steps, schedule="constant", warmup=0.0)[0].state_dict() for steps in range(4)]
    expected = {name: weight.clone() for name, weight in every[0].items()}
    for step, weights in enumerate(every[1:]):
        decay = min(0.15, (1 + step) / (10 + step))
        expected = {name: decay * value + (1 - decay) * weights[name] for name, value in expected.items()}
    left, state = learn(3, schedule="constant", warmup=0.0, ema_decay=0.15)
    for name, weight in left.state_dict().items():
        torch.testing.assert_close(weight, expected[name])
    objective = Classification(documents, ObjectiveContext(words, 32, 0, None, LABELS))
    heads.prepare(left)
    with torch.no_grad():
        batch = objective.batch(np.zeros(60, dtype=int), np.arange(60))
        loss = float(objective.score(left, batch)["loss"]) / 60
    _, watched = learn(3, schedule="constant", warmup=0.0, ema_decay=0.15, evaluate_every=3, validation=objective)
    assert watched.validations[-1].metrics["loss"] == pytest.approx(loss, rel=1e-4)
    assert state.records[-1].loss == watched.records[-1].loss


def test_dropout_follows_from_seed_and_step():
    """Neighbours in either, and seeds that differ in the upper half only, give different draws."""

    def drawn(*key):
        torch.manual_seed(loop._seed_of(*key))
        return tuple(torch.rand(4).tolist())

    keys = [(seed, step, rank) for seed in (0, 1, 2**16, 2**31) for step in (0, 1, 2) for rank in (0, 1)]
    assert len({drawn(*key) for key in keys}) == len(keys)
    assert drawn(3, 4, 0) == drawn(3, 4, 0)


def test_bf16_learns_too(learn):
    """With weights in fp32, on the same easy texts."""
    model, state = learn(precision="bf16")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert state.records[-1].loss < 0.1


@pytest.mark.parametrize("task", ["masked", "causal"])
def test_language_modelling_learns_a_small_corpus(tmp_path, words, tiny, params, task):
    """The same loop pretrains: documents of two alternating tokens are soon predicted."""
    corpus.write(tmp_path, [[30 + 2 * (row % 9), 31 + 2 * (row % 9)] * 8 for row in range(40)])
    rows = corpus.Sequences(tmp_path, 16, words.pad_token_id)
    if task == "masked":
        model, objective = build.new(MaskedLM, tiny()), MaskedLM(rows, words, rate=0.3, seed=0)
    else:
        shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", vocab_size=len(words), **shape))
        objective = CausalLM(rows)
    update = {"batch_size": 20, "precision": "fp32", "learning_rate": 0.02, "evaluate_every": 0}
    settings = params.pretrain.model_copy(update=update)
    _, state = loop.train(model, objective, settings, 120, seed=0, report=lambda _: None)
    assert state.records[0].loss > 0.5 * math.log(len(words))
    assert state.records[-1].loss < 0.5


def test_records_come_every_ten_steps_and_at_the_end(learn):
    """Each is reported at once, with speed and memory."""
    seen = []
    _, state = learn(25, report=seen.append)
    assert [record.step for record in seen] == [10, 20, 25]
    assert seen == state.records
    assert all(record.steps_per_second > 0 and record.tokens_per_second > 0 for record in seen)


def test_a_record_is_the_mean_since_the_one_before(learn, monkeypatch):
    """The same means as of records of every step."""
    _, tens = learn(25)
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    losses = [record.loss for record in learn(25)[1].records]
    expected = [np.mean(losses[:10]), np.mean(losses[10:20]), np.mean(losses[20:])]
    assert [record.loss for record in tens.records] == pytest.approx(expected)


@pytest.mark.parametrize("family", ["modernbert", "bert", "roberta"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_model_is_returned_as_transformers_runs_it(learn, words, documents, family, checkpointing):
    """With its own attention, in eval mode, and with the logits of packed sequences."""
    model, _ = learn(8, family=family, gradient_checkpointing=checkpointing)
    assert model.config._attn_implementation == "sdpa"
    assert not model.training
    assert not model.is_activation_checkpointing
    texts = [document["text"] for document in documents[:9]]
    with torch.no_grad():
        logits = model(**Class(model, words, {"length": 32}).encoded([{"text": text} for text in texts])).logits
        ids = [np.array(words(text)["input_ids"]) for text in texts]
        packed = varlen.pack(np.concatenate(ids), np.array([len(text) for text in ids]))
        heads.prepare(model)
        expected = heads.classify(model, packed)
    assert torch.allclose(logits, expected, atol=1e-5)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_while_training_leaves_no_thread_and_no_handler(documents, words, tiny, params, workers):
    """The caller's process is as before."""
    import signal

    class Fails(Classification):
        def loss(self, model, batch):
            raise ZeroDivisionError

    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    settings = params.finetune.model_copy(update={"evaluate_every": 0})
    with pytest.raises(ZeroDivisionError):
        loop.train(
            build.new(Classification, tiny(), LABELS),
            Fails(documents, ObjectiveContext(words, 32, 0, None, LABELS)),
            settings,
            5,
            seed=0,
            report=print,
            workers=workers,
        )
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_training_in_another_thread_leaves_signals_to_the_main_one(learn):
    """Only the main thread may set handlers."""
    results = []
    thread = threading.Thread(target=lambda: results.append(learn(3)))
    thread.start()
    thread.join()
    assert results[0][1].step == 3


@pytest.fixture
def stage(tmp_path, params):
    """A stage, as far as training uses it."""
    written = {}
    return SimpleNamespace(
        name="finetune",
        key="0123456789abcdef",
        params=params,
        checkpoints=tmp_path / "checkpoints",
        reporter=lambda _steps: lambda _record: None,
        out=lambda path: tmp_path / path.replace("/", "-"),
        model=lambda path, examples: written.update(model=path, examples=examples),
        run=SimpleNamespace(metrics=lambda values, *_: written.update(values)),
        written=written,
    )


def test_a_stage_writes_model_and_curve_and_leaves_no_thread(stage, tmp_path, documents, words, tiny):
    """So its checkpoints can be removed when it ends; its metrics are correct."""
    objective = Classification(documents, ObjectiveContext(words, 32, 0, None, LABELS))
    settings = stage.params.finetune.model_copy(update={"batch_size": 20, "evaluate_every": 5})
    config, example = Classification.inference_config(objective.context), {"text": "one"}
    job = Job(build.new(Classification, tiny(), LABELS), words, objective, objective, settings, 9, config, example, 0)
    run_training(stage, job, out="models/finetuned")
    assert stage.written["model"] == "models/finetuned"
    assert stage.written["epochs"] == 3
    assert stage.written["skipped_steps"] == 0
    assert len((tmp_path / "reports-curves-finetune.csv").read_text(encoding="utf-8").splitlines()) == 3
    assert not build.load(Classification, tmp_path / "models-finetuned")[0].training
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("checkpoint")]
