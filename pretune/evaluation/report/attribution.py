"""The parts of a text or image that decided for a class: integrated gradients (Sundararajan et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pretune.data.rows import Row

STEPS = 32  # of the integral from the baseline (padding, or black) to the input
CELLS = 32  # per side of an image, at most


@dataclass(frozen=True)
class Piece:
    """A part of a text. weight: relative to the strongest; positive for the predicted class, negative against it."""

    text: str
    weight: float


Cells = list[list[float]]  # weights, as those of pieces, of the squares of an image: (rows, columns)


def attribute(model: Any, row: Row) -> list[Piece] | Cells | None:
    """What in a row decided for the class that `model` (a predictor) gives; None for what cannot be attributed.

    It can be done for the class of a single text, by the embeddings of its tokens, and for the class of an image.
    """
    if "label" in model.gives and "image" in model.reads:
        return image_cells(model, row["image"])
    if "label" in model.gives and "text" in model.reads and "pair" not in row:
        return text_pieces(model, row["text"])
    return None


def text_pieces(model: Any, text: str) -> list[Piece]:
    """The whole text in pieces, each with its weight for the class that `model` (a predictor) gives."""
    from captum.attr import LayerIntegratedGradients

    encoded = model.encoded([{"text": text}])
    ids, mask = encoded["input_ids"], encoded["attention_mask"]
    tokenizer = model.tokenizer
    special = torch.isin(ids, torch.tensor(tokenizer.all_special_ids))
    baseline = torch.where(special, ids, tokenizer.pad_token_id or 0)

    def class_logits(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        logits: Tensor = model.model(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits if logits.shape[1] > 1 else torch.cat([-logits, logits], dim=1)

    with torch.no_grad():
        target = int(class_logits(ids, mask).argmax())
    gradients = LayerIntegratedGradients(class_logits, model.model.get_input_embeddings())
    attributions = gradients.attribute(
        ids, baseline, target=target, additional_forward_args=(mask,), n_steps=STEPS, internal_batch_size=STEPS
    )
    weights = _relative(attributions.sum(dim=-1)[0].masked_fill(special[0], 0.0))
    limit = {"truncation": True, "max_length": ids.shape[1]}
    spans = tokenizer(text, return_offsets_mapping=True, **limit)["offset_mapping"]
    return _split(text, spans, weights.tolist())


def image_cells(model: Any, image: bytes) -> Cells:
    """The weight of each cell of an image for the class that `model` (a predictor) gives, against a black image.

    A cell is a pixel as the model sees it, or a square of pixels where there are more than CELLS per side.
    """
    from captum.attr import IntegratedGradients

    def values(pixels: np.ndarray[Any, Any]) -> Tensor:
        return torch.from_numpy(model.pipeline.values(pixels)).to(model.model.device)

    def class_logits(pixel_values: Tensor) -> Tensor:
        logits: Tensor = model.model(pixel_values=pixel_values).logits
        return logits

    pixels = model.pipeline.pixels(image)[None]
    inputs, baseline = values(pixels), values(np.zeros_like(pixels))
    with torch.no_grad():
        target = int(class_logits(inputs).argmax())
    attributions = (
        IntegratedGradients(class_logits)
        .attribute(inputs, baseline, target=target, n_steps=STEPS, internal_batch_size=STEPS)
        .sum(dim=1)
    )
    side = -(-attributions.shape[-1] // CELLS)
    sums = functional.avg_pool2d(attributions, side, ceil_mode=True, divisor_override=1)[0]
    weights: Cells = _relative(sums).tolist()
    return weights


def _relative(weights: Tensor) -> Tensor:
    """Divided by the largest absolute weight."""
    return weights / weights.abs().max().clamp(min=1e-12)


def _split(text: str, spans: list[tuple[int, int]], weights: list[float]) -> list[Piece]:
    """The text as pieces with the weights of tokens: tokens of the same characters add up; other characters weigh 0."""
    pieces, end_of_last = [], 0
    for (start, end), weight in zip(spans, weights, strict=True):
        if start > end_of_last:
            pieces.append(Piece(text[end_of_last:start], 0.0))
        if end > max(start, end_of_last):
            pieces.append(Piece(text[max(start, end_of_last) : end], weight))
        elif pieces and end > start:
            pieces[-1] = Piece(pieces[-1].text, pieces[-1].weight + weight)
        end_of_last = max(end_of_last, end)
    return pieces + ([Piece(text[end_of_last:], 0.0)] if end_of_last < len(text) else [])
