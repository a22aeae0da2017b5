"""Texts that a model generates for test rows, next to the true texts: to be read, not measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pretune.data.rows import Row
from pretune.evaluation.slices import input_text
from pretune.objectives.predictions import Likelihoods, Predictions, Preferences, Texts
from pretune.predictor.text import CONTINUATION

SAMPLES = 6  # rows, evenly spaced


@dataclass(frozen=True)
class Sample:
    """row: its number; input: its text, or the beginning; true: the text that should follow; predicted: the model's.

    before: that of the checkpoint as it came, None where it was not asked.
    """

    row: int
    input: str
    true: str
    predicted: str
    before: str | None = None


def collect(predictions: Predictions, model: Any, rows: Sequence[Row], base: Predictions | None = None) -> list[Sample]:
    """Samples of generated texts or of continuations; none of models that do not generate text.

    model: a predictor. It always takes the likeliest token, so the samples are the same each time.
    base: the predictions of the checkpoint as it came.
    """
    places = sorted({round(number * (len(rows) - 1) / (SAMPLES - 1)) for number in range(SAMPLES)} if rows else ())
    if isinstance(predictions, Texts):
        true, predicted = predictions.targets, predictions.predicted
        asked: Sequence[str | None] = base.predicted if isinstance(base, Texts) else [None] * len(rows)
        return [Sample(place, input_text(rows[place]), true[place], predicted[place], asked[place]) for place in places]
    if isinstance(predictions, Preferences):
        replies = {place: reply for place in places if (reply := predictions.replies[place]) is not None}
        before = base.replies if isinstance(base, Preferences) else [None] * len(rows)
        return [
            Sample(place, input_text(rows[place]), predictions.targets[place][0], reply, before[place])
            for place, reply in replies.items()
        ]
    if isinstance(predictions, Likelihoods):
        return _continuations(model, rows, places)
    return []


def _continuations(model: Any, rows: Sequence[Row], places: Sequence[int]) -> list[Sample]:
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
    predicted = model.continuations([begun for _, begun, _ in halves])
    return [Sample(*half, text) for half, text in zip(halves, predicted, strict=True)]
