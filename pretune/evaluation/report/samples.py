"""Texts that a model generates or finds for test rows, next to the true texts: to be read, not measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pretune.data.rows import Row
from pretune.evaluation.slices import input_text
from pretune.objectives.predictions import Likelihoods, Predictions, Preferences, Rankings, Texts
from pretune.predictor.text import CONTINUATION

SAMPLES = 6  # rows, evenly spaced


@dataclass(frozen=True)
class Sample:
    """row: its number; input: its text, or the beginning; true: the text that should follow; predicted: the model's.

    before: that of the model before its last training, None where it was not asked.
    """

    row: int
    input: str
    true: str
    predicted: str
    before: str | None = None


def collect(
    predictions: Predictions,
    model: Any,
    rows: Sequence[Row],
    before: Predictions | None = None,
    checkpoint: Any = None,
) -> list[Sample]:
    """Samples of texts that are generated, continued or found; none of models that give no text.

    model: a predictor. It always takes the likeliest token, so the samples are the same each time.
    before: the predictions of the model before its last training; checkpoint: the predictor of the checkpoint as it
    came, for continuations.
    """
    places = sorted({round(number * (len(rows) - 1) / (SAMPLES - 1)) for number in range(SAMPLES)} if rows else ())
    if isinstance(predictions, Likelihoods):
        return _continuations(model, rows, places, checkpoint)
    true, given = _given(predictions)
    _, earlier = _given(before) if isinstance(before, type(predictions)) else ([], [None] * len(rows))
    return [
        Sample(place, _asked(predictions, rows[place]), true[place], text, earlier[place])
        for place in places
        if given and (text := given[place]) is not None
    ]


def _asked(predictions: Predictions, row: Row) -> str:
    """What the model reads; of a text and what belongs to it, the text."""
    return str(row["text"]) if isinstance(predictions, Rankings) else input_text(row)


def _given(predictions: Predictions) -> tuple[Sequence[str], Sequence[str | None]]:
    """The true text for each row and the one that a model gives; nothing for models that give no text."""
    match predictions:
        case Texts():
            return predictions.targets, predictions.predicted
        case Rankings():
            return [targets[0] for targets in predictions.targets], predictions.predicted
        case Preferences():
            return [preferred for preferred, _ in predictions.targets], predictions.replies
        case _:
            return [], []


def _continuations(model: Any, rows: Sequence[Row], places: Sequence[int], checkpoint: Any) -> list[Sample]:
    """The first half of each text, shortened so that the model can continue it, and the text that follows."""
    room = max(1, model.inference_config["length"] - CONTINUATION)
    halves = []
    for place in places:
        text = rows[place]["text"]
        spans = model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        half = min(len(spans) // 2, room)
        if half:
            middle, end = (spans[min(number, len(spans)) - 1][1] for number in (half, half + CONTINUATION))
            halves.append((place, text[:middle], text[middle:end]))
    begun = [text for _, text, _ in halves]
    predicted = model.continuations(begun)
    before: Sequence[str | None] = checkpoint.continuations(begun) if checkpoint else [None] * len(begun)
    return [Sample(*half, *texts) for half, *texts in zip(halves, predicted, before, strict=True)]
