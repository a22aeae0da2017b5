"""Extractive question answering: targets, and the loss against transformers' own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pretune.config.params import ModelParams
from pretune.models import build, heads
from pretune.objectives.base import ObjectiveContext
from pretune.objectives.finetuning.question_answering import QuestionAnswering

FAMILIES = pytest.mark.parametrize("family", ["modernbert", "bert", "roberta", "distilbert", "electra"])
LENGTH = 32


def rows(count=6):
    """Questions about numbers, in contexts of different lengths."""
    questions = []
    for n in range(count):
        context = " ".join(f"number {k} is about {['salt', 'butter'][k % 2]} {k * k};" for k in range(2, 5 + 3 * n))
        answer = f"{['salt', 'butter'][(2 + n) % 2]} {(2 + n) ** 2}"
        answers = [{"text": answer, "start": context.index(answer)}, {"text": "salt", "start": context.index("salt")}]
        questions.append({"question": f"what is number {2 + n} about?", "context": context, "answers": answers})
    return questions


def objective(words, questions=None):
    """With windows that overlap."""
    settings = QuestionAnswering.Settings(overlap=6, longest=8, best=3)
    return QuestionAnswering(
        rows() if questions is None else questions, ObjectiveContext(words, LENGTH, 0, settings, [])
    )


def batch(task, samples):
    """These windows."""
    return task.batch(np.zeros(len(samples), dtype=int), np.array(samples))


@pytest.fixture
def model(words, deterministic):
    """A function from a family to its smallest model of questions."""

    def make(family):
        shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        shape |= {"hidden_dim": 64} if family == "distilbert" else {"intermediate_size": 64}
        shape |= {"global_attn_every_n_layers": 1} if family == "modernbert" else {}
        shape |= {"embedding_size": 32} if family == "electra" else {}
        params = ModelParams(type=family, init=None, config=shape)
        return build.new(QuestionAnswering, build.config_for(params, QuestionAnswering.shape(words))).eval()

    return make


def test_the_target_of_a_window_is_the_first_answer_or_its_first_token(words):
    """In a window with the answer its tokens decode to the answer; in others it is (0, 0)."""
    task = objective(words)
    answers = [row["answers"][0]["text"] for row in rows()]
    held = set()
    for window, (first, last) in zip(task.windows, task.targets, strict=True):
        if last:
            held.add(window.row)
            assert words.decode(window.ids[first : last + 1]).strip() == answers[window.row]
        else:
            assert first == 0
    assert held == set(range(6))
    assert len(task) > 6


def test_a_question_without_an_answer_has_the_first_token_as_target(words):
    """In all of its windows."""
    unanswered = [{"question": "why?", "context": "salt", "answers": []}]
    assert objective(words, unanswered).targets.tolist() == [[0, 0]]


@FAMILIES
def test_the_loss_is_that_of_transformers(words, model, family):
    """The sum over a batch of windows is the sum of the losses of the model's own forward pass on each."""
    task, network = objective(words), model(family)
    samples = list(range(len(task)))
    windows = batch(task, samples)
    heads.prepare(network)
    with torch.no_grad():
        ours = task.score(network, windows)
        network.set_attn_implementation("sdpa")
        theirs = right = 0
        for sample in samples:
            window, (first, last) = task.windows[sample], task.targets[sample]
            types = {"token_type_ids": torch.tensor(window.types)[None]} if heads.has_types(network) else {}
            output = network(
                input_ids=torch.tensor(window.ids)[None], **types,
                start_positions=torch.tensor([first]), end_positions=torch.tensor([last]),
            )  # fmt: skip
            theirs += float(output.loss)
            right += int(output.start_logits.argmax() == first and output.end_logits.argmax() == last)
    assert windows.count == len(samples)
    assert float(ours["loss"]) == pytest.approx(theirs, rel=1e-4)
    assert int(ours["accuracy"]) == right


@FAMILIES
def test_every_row_gets_its_best_answers(words, model, family):
    """As many as the settings say, spans of its context, the likeliest first; targets are those of the rows."""
    task = objective(words)
    predictions = task.predict(model(family))
    assert predictions.targets == [[answer["text"] for answer in row["answers"]] for row in rows()]
    for row, predicted, best in zip(rows(), predictions.predicted, predictions.best, strict=True):
        assert len(best) == 3
        assert predicted == best[0][0]
        assert all(text in row["context"] for text, _ in best)
        assert [score for _, score in best] == sorted((score for _, score in best), reverse=True)
        assert sum(score for _, score in best) <= 1.0 + 1e-6
