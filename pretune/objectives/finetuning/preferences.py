"""Shared by the objectives that train a decoder on pairs of answers, of which people prefer one.

Rows hold a prompt, `messages`, and its continuations `chosen` and `rejected`. Both are sequences of one packed batch,
and the loss follows from the log-probabilities of the tokens of the answers only.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedModel
from typing_extensions import override

from pretune.data.rows import Row
from pretune.errors import DataError
from pretune.objectives.base import FinetuningObjective, ObjectiveContext
from pretune.objectives.completions import Completions, Encoded, collate, log_probs
from pretune.objectives.conversations import Encoder
from pretune.objectives.finetuning.chat import ChatObjective
from pretune.objectives.predictions import Preferences
from pretune.objectives.requirements import COLUMNS
from pretune.predictor import chat, conversation
from pretune.predictor.conversation import ConversationError

SHOWN = 5  # refused rows


@dataclass(frozen=True)
class PairBatch(Completions):
    """The chosen answers of some pairs, then the rejected ones.

    reference: (2, pairs) float32, the log-probabilities of the chosen and the rejected answers under the model that
    training started from; None for objectives without a reference.
    """

    reference: Tensor | None

    @property
    def count(self) -> int:
        """Pairs that the loss is summed over."""
        return len(self.packed.starts) // 2


class Paired(FinetuningObjective):
    """Rows with two answers, of which those count whose answers begin within the length."""

    columns = COLUMNS["dpo"]
    metrics = ("loss", "accuracy")

    def __init__(self, rows: Sequence[Row], context: ObjectiveContext) -> None:
        self.rows, self.context = rows, context
        self.pairs = encode_pairs(rows, context)
        self.kept = kept(self.pairs, context)

    @override
    def told(self) -> tuple[list[str], dict[str, float]]:
        return told(len(self.pairs), len(self.kept), self.context)

    def __len__(self) -> int:
        return len(self.kept)


class PairObjective(Paired, ChatObjective):
    """The loss of a pair is a function of the log-probabilities of its two answers."""

    def batch(self, epochs: npt.NDArray[np.int64], samples: npt.NDArray[np.int64]) -> PairBatch:  # noqa: ARG002 - no random draws
        """These pairs."""
        rows = [self.kept[sample] for sample in samples]
        reference = None
        if self.referenced and all("reference" in self.rows[row] for row in rows):
            reference = torch.tensor([self.rows[row]["reference"] for row in rows], dtype=torch.float32).T
        return pair_batch([self.pairs[row] for row in rows], reference)

    @abstractmethod
    def preference(self, log_probs: Tensor, lengths: Tensor, reference: Tensor | None) -> tuple[Tensor, Tensor]:
        """The loss of each pair, and by how much it prefers the chosen answer: (pairs,) both.

        log_probs, lengths (in tokens), reference: (2, pairs), of the chosen and the rejected answers.
        """

    def loss(self, model: PreTrainedModel, batch: PairBatch) -> Tensor:
        """The sum over the pairs."""
        return self._preference(model, batch)[0].sum()

    def score(self, model: PreTrainedModel, batch: PairBatch) -> dict[str, Tensor]:
        """Sums over the pairs, for validation; accuracy: whether the chosen answer is preferred."""
        losses, margins = self._preference(model, batch)
        return {"loss": losses.sum(), "accuracy": (margins > 0).sum()}

    def _preference(self, model: PreTrainedModel, batch: PairBatch) -> tuple[Tensor, Tensor]:
        return self.preference(batch.log_probs(model).view(2, -1), batch.lengths.view(2, -1), batch.reference)

    def log_probs(
        self, model: PreTrainedModel, told: Callable[[int, int], None] | None = None
    ) -> npt.NDArray[np.float32]:
        """The log-probabilities of the chosen and the rejected answer of each row, 0 where it is cut off: (rows, 2)."""
        return log_probs(model, [answer for pair in self.pairs for answer in pair], told).reshape(-1, 2)

    def predict(self, model: PreTrainedModel) -> Preferences:
        """Both answers of each row in nats, and what the model itself answers."""
        chosen, rejected = self.log_probs(model).T
        reply = chat.Reply(model, self.context.inputs, self.inference_config(self.context))
        replies = reply(self.rows)
        return Preferences(answer_texts(self.rows), chosen, rejected, [answer["text"] for answer in replies])


def pair_batch(pairs: Sequence[tuple[Encoded, Encoded]], reference: Tensor | None = None) -> PairBatch:
    """A batch of encoded pairs."""
    return PairBatch(**vars(collate([pair[answer] for answer in (0, 1) for pair in pairs])), reference=reference)


def encode_pairs(rows: Sequence[Row], context: ObjectiveContext) -> list[tuple[Encoded, Encoded]]:
    """Both conversations of each row, of which only the answer counts as completion."""
    answers = [(row, row[name]) for row in rows for name in ("chosen", "rejected")]
    encoded = encode([(row, row["messages"], answer) for row, answer in answers], context)
    return list(zip(encoded[::2], encoded[1::2], strict=True))


def encode(answers: Sequence[tuple[Row, list[Row], list[Row]]], context: ObjectiveContext) -> list[Encoded]:
    """Prompts with their answers, in the chat template, which the tokenizer then keeps; cut at `context.length`.

    answers: rows, prompts and answers. DataError names the rows that the template refuses.
    """
    tokenizer = context.inputs
    conversation.set_template(tokenizer, context.settings.template)
    encoder, encoded, refused = Encoder(tokenizer), list[Encoded](), list[str]()
    for row, prompt, answer in answers:
        try:
            sample = encoder.completion(prompt, answer, row.get("tools"))
        except ConversationError as error:
            refused.append(f"{row.get('origin', 'a row')}: {error}")
            continue
        encoded.append((sample.ids[: context.length], sample.weights[: context.length] > 0))
    if refused:
        count = f"{len(refused)} of {len(answers)} answers cannot be written"
        fix = "correct these rows, or name another template in settings of params.yaml (docs/models.md)"
        raise DataError([count, *refused[:SHOWN]], fix)
    return encoded


def kept(rows: Sequence[Sequence[Encoded]], context: ObjectiveContext) -> list[int]:
    """The rows whose answers all begin within `context.length` tokens; DataError if there are rows but none such."""
    numbers = [row for row, answers in enumerate(rows) if all(completion.any() for _, completion in answers)]
    if rows and not numbers:
        raise DataError(
            f"no row has its answers (role: assistant) within {context.length} tokens",
            "raise sequence_length in params.yaml, or fix the data",
        )
    return numbers


def told(rows: int, trained: int, context: ObjectiveContext) -> tuple[list[str], dict[str, float]]:
    """A warning if rows are left out because an answer lies beyond the length, and their number."""
    out = rows - trained
    warning = f"{out} of {rows} rows have an answer beyond {context.length} tokens (sequence_length) and are left out"
    return [warning] if out else [], {"preferences_left_out": float(out)}


def answer_texts(rows: Sequence[Row]) -> list[list[str]]:
    """The chosen and the rejected answer of each row."""
    return [["\n".join(turn["content"] for turn in row[name]) for name in ("chosen", "rejected")] for row in rows]
