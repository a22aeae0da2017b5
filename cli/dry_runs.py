"""What `evaluate` and `teacher` will cost, measured on a part of their work in this process, for `pretune plan`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from pretune.data import rows
from pretune.data.rows import Row
from pretune.evaluation import baselines, forgetting, names, speed
from pretune.evaluation.metrics import compute
from pretune.evaluation.metrics.bootstrap import Bootstrap
from pretune.evaluation.report import attribution
from pretune.models import build
from pretune.objectives.base import ObjectiveContext
from pretune.objectives.finetuning.labelled import LabelledData
from pretune.objectives.finetuning.language_modelling import LOGITS, LanguageModelling
from pretune.objectives.finetuning.teacher import TOKENS
from pretune.objectives.predictions import Texts
from pretune.predictor.model import ANSWERS
from pretune.training import device, memory
from pretune.training.estimate import answering

if TYPE_CHECKING:
    from pretune.objectives.base import FinetuningObjective
    from pretune.runtime.stage import StageInputs

T = TypeVar("T")
Estimate = dict[str, Any]
ALONE = 5  # rows that are answered one by one, for the latency


def teacher(stage: StageInputs, began: float) -> Estimate:
    """Ask the teacher about some samples: by their tokens, the seconds of all; one forward pass reads more of them."""
    from tasks import teacher as task

    model, samples, vocabulary = task.prepare(stage)
    distinct = list({sample.ids.tobytes(): sample for sample in samples}.values())
    task.ask(stage, model, distinct[:1], vocabulary)  # the first one allocates
    startup, held = time.perf_counter() - began, memory.held(model.device)
    some, took, count = distinct[:1], 0.0, answering.FIRST
    while took < answering.ENOUGH and len(some) < len(distinct):
        some, count = distinct[:: max(1, len(distinct) // count)], 4 * count
        _, took = _timed(partial(task.ask, stage, model, some, vocabulary))
    tokens, tried = (sum(len(sample.ids) for sample in part) for part in (distinct, some))
    larger = min(TOKENS, tokens) / min(TOKENS, tried)
    growth = max(0, memory.highest(model.device) - held)
    return {
        "parameters": model.num_parameters(),
        "memory_gb": (held + larger * growth) / 1e9,
        "seconds": startup + took * tokens / tried,
    }


def evaluate(stage: StageInputs, began: float) -> Estimate:
    """Answer some test rows with the model that is evaluated, and measure the baselines, intervals and the rest.

    Each model that is compared is loaded, and answers all rows. Benchmarks are not tried.
    """
    params = stage.params
    device.prepare(params.seed, params.threads)
    aligned, labelled = "models/aligned" in stage.declared("models"), stage.dep("data/prepared/labelled")
    section = params.align if aligned and params.align else params.finetune
    data = LabelledData(labelled, section, params.seed, "align" if aligned else "finetune")
    compared = names.compared(stage.declared("models"), params.model.init)
    if not params.scratch.trains(params.model):
        compared = [path for path in compared if path != "models/scratch"]
    folder = stage.dep(compared[0])
    objective = data.objective(build.model_type(folder))
    context = data.context(objective, objective.inputs(folder))
    asked: Any = objective(data.rows(objective, "test"), context)
    startup, held = time.perf_counter() - began, memory.held(torch.device("cpu"))
    model, loading = _timed(partial(_loaded, objective, folder, context.labels))
    untrained = objective.answers_untrained and params.model.init is not None
    trial = _writer(asked, model) if answering.writes(objective, model) else _reader(asked, model)
    seconds = len(compared) * (loading + trial.trained) + untrained * (loading + trial.untrained)
    seconds += trial.alone + _compared(stage, data, trial, len(compared) + untrained)
    forgotten, logits = _forgotten(stage, asked, model, loading)
    weights = sum(weight.nbytes for weight in model.parameters())
    whole = held + 2 * weights + trial.cache + logits  # twice: the heap keeps what the model before has left
    return {
        "parameters": model.num_parameters(),
        "memory_gb": max(memory.highest(model.device), whole) / 1e9,
        "seconds": startup + loading + seconds + _explained(stage, asked, model) + forgotten,  # the report loads it too
    }


def _loaded(objective: type[FinetuningObjective], folder: Path, labels: list[str]) -> Any:
    return build.load(objective, folder, labels)[0].eval()


@dataclass(frozen=True)
class Trial:
    """Seconds in which a trained model answers all rows, one that is not, and one that is asked row by row.

    predictions: for `rows`, `share` of all. cache: bytes of keys and values that no trial has held.
    """

    trained: float
    untrained: float
    alone: float
    predictions: Any
    rows: list[Row]
    share: float = 1.0
    cache: int = 0


def _writer(asked: Any, model: Any) -> Trial:
    """Of a chat model: without training it may write up to the limit."""
    pace, (prompts, answers) = answering.Pace.measure(model), answering.lengths(asked, model)
    pairs = len({"chosen", "rejected"} & set(asked.columns))  # each of these answers is scored as well
    scored = pairs * sum(pace(prompt + answer) for prompt, answer in zip(prompts, answers, strict=True))
    longest = [asked.context.settings.reply_tokens] * len(prompts)
    texts = answering.references(asked.rows)
    return Trial(
        scored + pace.writing(prompts, answers),
        scored + pace.writing(prompts, longest),
        pace.alone(prompts, answers) * (speed.GENERATED + speed.WARMUP_GENERATED),
        None if scored else Texts(texts, texts),
        asked.rows,
        cache=answering.cache(model, prompts, longest),
    )


def _reader(asked: Any, model: Any) -> Trial:
    """Of any other."""
    some = answering.few(asked, model)
    one = type(asked)(some.rows[:1], asked.context)
    _, alone = _timed(lambda: [one.predict(model) for _ in range(ALONE)])
    times = speed.GENERATED + speed.WARMUP_GENERATED if asked.generated else speed.ROWS + speed.WARMUP
    return Trial(some.whole, some.whole, alone / ALONE * times, some.predictions, some.rows, some.share)


def _compared(stage: StageInputs, data: LabelledData, trial: Trial, models: int) -> float:
    """Seconds of the baselines, and of the metrics and intervals of so many models and them."""
    if trial.predictions is None:
        return 0.0
    params, train = stage.params.evaluate, rows.read(data.folder / "train.parquet")
    bootstrap = Bootstrap(len(trial.rows), params.bootstrap_samples, params.confidence, stage.params.seed)
    own = {str(number): trial.predictions for number in range(models)}
    simple, fitting = _timed(lambda: baselines.predict(train, trial.rows, trial.predictions))
    _, drawing = _timed(lambda: compute.evaluate_models(own | simple, bootstrap))
    return fitting + drawing / trial.share


def _explained(stage: StageInputs, asked: Any, model: Any) -> float:
    """Seconds of the explanations of mistakes; the first of them takes longer."""
    config = asked.inference_config(asked.context)
    predictor = ANSWERS[asked.answers](model, asked.context.inputs, config)
    count = stage.params.evaluate.attributions
    explain = partial(attribution.attribute, predictor, asked.rows[0])
    found, first = _timed(explain) if count else (None, 0.0)
    return first + (count - 1) * _timed(explain)[1] if found is not None else first


def _forgotten(stage: StageInputs, asked: Any, model: Any, loading: float) -> tuple[float, int]:
    """Seconds in which the model before training and that after it read held-out texts, and bytes of the logits."""
    if not forgetting.applies(type(asked)):
        return 0.0, 0
    inputs, params = asked.context.inputs, stage.params
    corpus = stage.dep("data/prepared/corpus")
    held_out, finding = _timed(lambda: forgetting.held_out_texts(corpus, inputs, [], params.pretrain, params.seed))
    texts = [{"text": text} for part in held_out.values() for text in part]
    if len(texts) < forgetting.FEWEST:
        return finding, 0
    length = min(forgetting.LENGTH, int(inputs.model_max_length))
    read = LanguageModelling(texts, ObjectiveContext(inputs, length, params.seed, settings=None))
    logits = min(LOGITS, len(texts) * length * model.config.get_text_config().vocab_size)
    return finding + 2 * (loading + answering.few(read, model).whole), 2 * 4 * logits  # they, and their logarithms


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    """What it returns, and the seconds that it takes."""
    began = time.perf_counter()
    result = work()
    return result, time.perf_counter() - began
