"""Which parts of a text spoke for an answer: integrated gradients (Sundararajan et al. 2017) over its tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

STEPS = 32  # on the way from nothing to the text


@dataclass(frozen=True)
class Piece:
    """A part of a text; `weight` is relative to the strongest: 1 for the answer, -1 against it, 0 not looked at."""

    text: str
    weight: float


def explains(answers: Any) -> bool:
    """Whether it gives a class to a text, by way of embeddings of tokens."""
    return "label" in answers.gives and "text" in answers.reads


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
    weights = found.sum(dim=-1)[0].masked_fill(special[0], 0.0)
    weights = weights / weights.abs().max().clamp(min=1e-12)
    limit = {"truncation": True, "max_length": ids.shape[1]}
    spans = tokenizer(text, return_offsets_mapping=True, **limit)["offset_mapping"]
    return _spread(text, spans, weights.tolist())


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
