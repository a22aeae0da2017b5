"""What a model writes on held-out rows, beside what stands there: to be read, not measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pretune.data.rows import Row
from pretune.evaluation import slices
from pretune.objectives.predictions import Likelihoods, Predictions, Texts
from pretune.predictor.text import CONTINUATION

SAMPLES = 6  # rows, spread evenly over all


@dataclass(frozen=True)
class Sample:
    """row: its number; asked: its text, or the beginning; wanted: what stands there."""

    row: int
    asked: str
    wanted: str
    said: str


def samples(found: Predictions, answers: Any, rows: Sequence[Row]) -> list[Sample]:
    """Of a model that writes: its answers, or how it goes on. None of others. Likeliest tokens, so always the same."""
    places = sorted({round(number * (len(rows) - 1) / (SAMPLES - 1)) for number in range(SAMPLES)} if rows else ())
    if isinstance(found, Texts):
        return [Sample(n, slices.asked(rows[n]), found.targets[n], found.predicted[n]) for n in places]
    if isinstance(found, Likelihoods):
        return list(_continued(answers, rows, places))
    return []


def _continued(answers: Any, rows: Sequence[Row], places: Sequence[int]) -> Iterator[Sample]:
    """The first half of each text, as far as the model has room to go on, and what follows it."""
    room = max(1, answers.inference_config["length"] - CONTINUATION)
    for place in places:
        text = rows[place]["text"]
        spans = answers.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        half = min(len(spans) // 2, room)
        if half:
            end, last = (spans[min(number, len(spans)) - 1][1] for number in (half, half + CONTINUATION))
            yield Sample(place, text[:end], text[end:last], answers.continuation(text[:end]))
