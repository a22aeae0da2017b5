"""Extractive question answering: targets, and the loss against transformers' own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pretune.config.params import ModelParams
from pretune.data.rows import read, write
from pretune.models import build, heads
from pretune.objectives.base import ObjectiveContext
from pretune.objectives.finetuning.labelled import LabelledData
from pretune.objectives.finetuning.question_answering import QuestionAnswering, null_threshold
from pretune.predictor.model import Predictor
from pretune.training.job import finetuning_job

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


def context(words, **fitted):
    """With windows that overlap."""
    settings = QuestionAnswering.Settings(overlap=6, longest=8, best=3)
    return ObjectiveContext(words, LENGTH, 0, settings, [], **fitted)


def objective(words, questions=None, **fitted):
    """On some questions."""
    return QuestionAnswering(rows() if questions is None else questions, context(words, **fitted))


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


def test_a_question_without_an_answer_has_the_first_token_as_target(words, tmp_path):
    """In all of its windows, also after the row was stored: an empty list of answers stays one."""
    write(tmp_path / "rows", [row | {"answers": []} for row in rows()])
    task = objective(words, read(tmp_path / "rows"))
    assert len(task) > 6
    assert not task.targets.any()


def test_an_answer_that_occurs_twice_is_where_it_starts(words):
    """Not at the first place with the same text."""
    text = "salt and butter and salt"
    task = objective(words, [{"question": "?", "context": text, "answers": [{"text": "salt", "start": 20}]}])
    [window], [(first, last)] = task.windows, task.targets
    assert (window.offsets[first, 0], window.offsets[last, 1]) in {(19, 24), (20, 24)}


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


@pytest.mark.parametrize(
    ("margins", "with_span", "without", "threshold"),
    [
        ([], [], [], 0.0),
        ([-3.0, 1.0], [1, 0], [0, 1], 0.0),  # 0 divides them
        ([1.0, 2.0, 4.0], [1, 1, 0], [0, 0, 1], 3.0),
        ([-4.0, -2.0], [1, 0], [0, 1], -3.0),
        ([1.0, 3.0], [0.5, 1], [0, 0], 4.0),  # every question has an answer
        ([2.0, 2.0, 5.0], [1, 0, 0], [0, 1, 1], 0.0),  # the same margin: the same prediction
        ([1.0, float("inf")], [1, 0], [0, 1], 2.0),  # a context without tokens
    ],
)
def test_the_threshold_has_the_highest_f1(margins, with_span, without, threshold):
    """Of thresholds that are equally good it is the one closest to 0."""
    assert null_threshold(margins, with_span, without) == threshold


def trained(words, model):
    """A BERT that has learnt which questions have an answer, and its objective: butter has none."""
    known = [
        {"question": f"what is {n}?", "context": f"{n} is salt", "answers": [{"text": "salt", "start": 5}]}
        for n in range(2, 8)
    ]
    unknown = [{"question": f"what is {n}?", "context": f"{n} is butter", "answers": []} for n in range(2, 8)]
    task, network = objective(words, known + unknown), model("bert")
    heads.prepare(network)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    everything = batch(task, list(range(len(task))))
    for _ in range(40):
        optimizer.zero_grad()
        (task.loss(network, everything) / everything.count).backward()
        optimizer.step()
    return network, task


def test_a_model_learns_that_a_question_has_no_answer(words, model, tmp_path):
    """Saved and loaded, it predicts as in training; the first answer is "", with a probability above one half."""
    network, task = trained(words, model)
    fitted = task.fitted(network, lambda: task.rows)
    assert fitted == {"null_threshold": 0.0}
    learnt = objective(words, task.rows, **fitted).predict(network)
    assert learnt.predicted == ["salt"] * 6 + [""] * 6
    assert [answers[0][0] for answers in learnt.best] == learnt.predicted
    build.save(network, words, tmp_path / "model", task.inference_config(context(words, **fitted)))
    table = Predictor(str(tmp_path / "model")).predict(task.rows)
    assert list(table["answer"]) == learnt.predicted
    assert (table["score"] > 0.5).all()


def test_the_threshold_is_fitted_on_the_rows_that_are_held_out(words, model):
    """Not on those that the model was trained on, which it knows too well."""
    network, unanswered = model("bert"), [row | {"answers": []} for row in rows()]
    trained_on = [objective(words, questions) for questions in (unanswered, rows() + unanswered)]
    on_answered, other = (task.fitted(network, rows) for task in trained_on)
    assert on_answered == other != trained_on[0].fitted(network, lambda: unanswered)


def test_the_threshold_reaches_the_predictions_of_every_stage(words, model, params, tmp_path):
    """It is fitted to the validation rows when training ends, and read with the model before its test rows."""
    settings = {"overlap": 6, "longest": 8, "best": 3}
    finetune = params.finetune.model_copy(
        update={"objective": "question_answering", "settings": settings, "evaluate_every": 0, "sequence_length": LENGTH}
    )
    unanswered = [row | {"answers": []} for row in rows()]
    for name, part in {"train": [*rows(), *unanswered], "validation": unanswered, "test": rows()}.items():
        write(tmp_path / f"{name}.parquet", part)
    (tmp_path / "labels.json").write_text("[]")
    data, network = LabelledData(tmp_path, finetune, 0), model("bert")
    job = finetuning_job(data, QuestionAnswering, data.context(QuestionAnswering, words), finetune, network)
    fitted = job.inference_config_of(network)
    assert fitted["null_threshold"] < min(objective(words, unanswered)._predictor(network).spans(unanswered)[1])
    build.save(network, words, tmp_path / "model", fitted)
    assert data.predictions(tmp_path / "model", "test").predicted == [""] * 6


def test_a_model_whose_questions_all_have_answers_never_says_nothing(words, model):
    """Nothing is fitted, no validation row is read, and its answers are the likeliest spans."""
    task, network = objective(words), model("bert")
    assert task.fitted(network, lambda: pytest.fail("validation rows are read")) == {}
    assert "null_threshold" not in task.inference_config(task.context)
    unanswered = objective(words, [row | {"answers": []} for row in rows()])
    assert all(unanswered.predict(network).predicted)
