"""Which parts of a text or image spoke for an answer: integrated gradients (Sundararajan et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pretune.data.rows import Row

STEPS = 32  # on the way from nothing to what was asked
CELLS = 32  # of a side of an image, at most


@dataclass(frozen=True)
class Piece:
    """A part of a text; `weight` is relative to the strongest: 1 for the answer, -1 against it, 0 not looked at."""

    text: str
    weight: float


Cells = list[list[float]]  # rows of squares of an image; weights as those of pieces


def explained(answers: Any, row: Row) -> list[Piece] | Cells | None:
    """What in a row spoke for the class that `answers` (a predictor's) gives to it; None where that cannot be told.

    It can of a class given to one text, by way of embeddings of tokens, or to an image.
    """
    if "label" in answers.gives and "image" in answers.reads:
        return cells(answers, row["image"])
    if "label" in answers.gives and "text" in answers.reads and "pair" not in row:
        return pieces(answers, row["text"])
    return None


def pieces(answers: Any, text: str) -> list[Piece]:
    """The whole text in pieces, each with what it said for the class that `answers` (a predictor's) gives to it."""
    from captum.attr import LayerIntegratedGradients

    encoded = answers.encoded([{"text": text}])
    ids, mask = encoded["input_ids"], encoded["attention_mask"]
    tokenizer = answers.tokenizer
    special = torch.isin(ids, torch.tensor(tokenizer.all_special_ids))
    nothing = torch.where(special, ids, tokenizer.pad_token_id or 0)

    def said(given: Tensor, attended: Tensor) -> Tensor:
        logits: Tensor = answers.model(input_ids=given, attention_mask=attended).logits
        return logits if logits.shape[1] > 1 else torch.cat([-logits, logits], dim=1)

    with torch.no_grad():
        target = int(said(ids, mask).argmax())
    gradients = LayerIntegratedGradients(said, answers.model.get_input_embeddings())
    found = gradients.attribute(
        ids, nothing, target=target, additional_forward_args=(mask,), n_steps=STEPS, internal_batch_size=STEPS
    )
    weights = _relative(found.sum(dim=-1)[0].masked_fill(special[0], 0.0))
    limit = {"truncation": True, "max_length": ids.shape[1]}
    spans = tokenizer(text, return_offsets_mapping=True, **limit)["offset_mapping"]
    return _spread(text, spans, weights.tolist())


def cells(answers: Any, image: bytes) -> Cells:
    """What each cell of an image said for the class that `answers` gives to it, on the way from black.

    A cell is a pixel as the model sees it, or a square of them where there are more than CELLS a side.
    """
    from captum.attr import IntegratedGradients

    def values(pixels: np.ndarray[Any, Any]) -> Tensor:
        return torch.from_numpy(answers.pipeline.values(pixels)).to(answers.model.device)

    def said(given: Tensor) -> Tensor:
        logits: Tensor = answers.model(pixel_values=given).logits
        return logits

    pixels = answers.pipeline.pixels(image)[None]
    given, black = values(pixels), values(np.zeros_like(pixels))
    with torch.no_grad():
        target = int(said(given).argmax())
    found = (
        IntegratedGradients(said)
        .attribute(given, black, target=target, n_steps=STEPS, internal_batch_size=STEPS)
        .sum(dim=1)
    )
    side = -(-found.shape[-1] // CELLS)
    sums = functional.avg_pool2d(found, side, ceil_mode=True, divisor_override=1)[0]
    weights: Cells = _relative(sums).tolist()
    return weights


def _relative(weights: Tensor) -> Tensor:
    """To the strongest of them."""
    return weights / weights.abs().max().clamp(min=1e-12)


def _spread(text: str, spans: list[tuple[int, int]], weights: list[float]) -> list[Piece]:
    """Weights of tokens on the text: tokens of the same characters add up; between and after them weighs nothing."""
    found, reached = [], 0
    for (start, end), weight in zip(spans, weights, strict=True):
        if start > reached:
            found.append(Piece(text[reached:start], 0.0))
        if end > max(start, reached):
            found.append(Piece(text[max(start, reached) : end], weight))
        elif found and end > start:
            found[-1] = Piece(found[-1].text, found[-1].weight + weight)
        reached = max(reached, end)
    return found + ([Piece(text[reached:], 0.0)] if reached < len(text) else [])
