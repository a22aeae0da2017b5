"""How long answers will take: by the steps of decoding, or by the answers to some rows."""

from __future__ import annotations

import pytest

from pretune.config.params import ModelParams, TrainingParams
from pretune.models import build
from pretune.objectives.finetuning.instruction import Instruction
from pretune.predictor import decoding
from pretune.training import parallel
from pretune.training.estimate import answering, dry_run
from pretune.training.job import Job
from tests.contracts import samples

ROWS = [{"messages": messages} for messages in samples.COLUMNS["messages"]]


@pytest.fixture
def model(words, deterministic):
    """The smallest Llama."""
    shape = ModelParams(type="llama", init=None, config=samples.FAMILIES["llama"])
    return build.new(Instruction, build.config_for(shape, build.text_shape(words))).eval()


@pytest.mark.parametrize(("count", "tokens"), [(3, [5, 1, 9]), (70, [3, 7, 4, 12, 1])])
def test_rows_that_write_together_take_the_steps_that_decoding_takes(model, monkeypatch, count, tokens):
    """Each prompt is read once; a row whose answer has ended takes the next prompt, and free rows are given up."""
    limits = [tokens[number % len(tokens)] for number in range(count)]
    rows = []
    step = decoding.step
    monkeypatch.setattr(
        decoding, "step", lambda *arguments: (rows.append(len(arguments[1].lengths)), step(*arguments))[1]
    )
    decoding.generate(model, [[5, 6, 7]] * count, limits, [])
    pace = answering.Pace([1, 128], [1.0, 1.0])
    assert pace.writing([3] * count, limits) == count + len(rows)
    proportional = answering.Pace([1, 64], [1.0, 64.0])
    assert proportional.writing([3] * count, limits) == pytest.approx(3 * count + sum(rows))


def test_a_decoder_is_timed_on_no_more_tokens_than_it_reads(model):
    """Between the numbers that were timed on a line, beyond them in proportion."""
    pace = answering.Pace.measure(model)
    assert list(pace.tokens) == [
        tokens for tokens in answering.TOKENS if tokens <= model.config.max_position_embeddings
    ]
    assert answering.Pace([1, 9], [1.0, 3.0])(5) == 2.0
    assert answering.Pace([1, 9], [1.0, 3.0])(18) == 6.0


def test_a_chat_model_is_taken_to_write_what_the_rows_answer(model, words):
    """As far as both are read and written: prompts keep room for the answer, which has a limit and an end."""
    objective = Instruction(ROWS, samples.context("instruction", words))
    prompts, answers = answering.lengths(objective, model)
    most = objective.context.settings.reply_tokens
    room = objective.context.length - most
    texts = answering.references(ROWS)
    assert answers == [min(most, 1 + len(words(text, add_special_tokens=False)["input_ids"])) for text in texts]
    assert max(prompts) <= room
    assert len(prompts) == len(ROWS)


def test_the_answers_to_some_rows_tell_of_all(model, words):
    """By the size of the rows; nothing is guessed where all were answered."""
    objective = Instruction(ROWS, samples.context("instruction", words))
    some = answering.few(objective, model)
    assert some.share == 1
    assert len(some.predictions.predicted) == len(ROWS)
    assert some.whole > 0


def test_texts_that_choose_the_best_weights_are_part_of_the_time(model, words, monkeypatch):
    """Each validation generates them: with a metric of the loss they cost nothing."""
    took = {}
    for metric in ("loss", "chrf"):
        monkeypatch.setattr(dry_run.answering, "seconds", lambda *_: 1000.0)
        settings = samples.TRAINING | {"evaluate_every": 2, "objective": "instruction", "metric_for_best_model": metric}
        context = samples.context("instruction", words)
        job = Job(
            model=model, inputs=words, objective=Instruction(ROWS, context), validation=Instruction(ROWS[:4], context),
            params=TrainingParams.model_validate(settings), steps=6, inference_config={}, example={}, seed=0,
        )  # fmt: skip
        took[metric] = dry_run.timed(job, parallel.single_process(), 1, 0).training
    assert took["loss"] < 1000
    assert 3000 < took["chrf"] < 4000
