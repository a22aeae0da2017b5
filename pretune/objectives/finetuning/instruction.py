"""Instruction tuning of a decoder (Wei et al. 2022): conversations in a chat template, loss on the answers.

A tokenizer without a chat template gets a plain one, which is saved with the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel
from typing_extensions import override

from pretune.data.loading.varlen import pack
from pretune.data.rows import Row, last_answer
from pretune.objectives.base import ObjectiveContext
from pretune.objectives.conversations import Conversations, Encoder
from pretune.objectives.finetuning.chat import ChatObjective, ChatSettings
from pretune.objectives.generated import METRICS
from pretune.objectives.predictions import Texts
from pretune.objectives.requirements import COLUMNS
from pretune.objectives.tokens import TokenBatch, TokenObjective
from pretune.predictor import chat, conversation


class Instruction(TokenObjective, ChatObjective):
    """Predicts each token of the assistant's messages from all tokens before it; other messages are input only."""

    columns = COLUMNS["instruction"]
    generated = METRICS

    class Settings(ChatSettings):
        """loss: on all answers or the last of each conversation. reasoning: whether thoughts are learnt or input only.

        too_long: what becomes of conversations beyond sequence_length.
        """

        loss: Literal["all", "last"]
        reasoning: Literal["trained", "masked"]
        too_long: Literal["cut", "drop", "split"]

    def __init__(self, rows: Sequence[Row], context: ObjectiveContext) -> None:
        self.rows, self.context = rows, context
        conversation.set_template(context.inputs, context.settings.template)

    @cached_property
    def conversations(self) -> Conversations:
        """The rows as samples; made when they are needed, for predictions need none."""
        settings = self.context.settings
        encoder = Encoder(self.context.inputs, loss=settings.loss, reasoning=settings.reasoning)
        rows = [row | {"messages": conversation_of(row)} for row in self.rows]
        return Conversations.of(rows, encoder, self.context.length, settings.too_long)

    @override
    def told(self) -> tuple[list[str], dict[str, float]]:
        return self.conversations.told()

    def __len__(self) -> int:
        return len(self.conversations.samples)

    def batch(self, epochs: npt.NDArray[np.int64], samples: npt.NDArray[np.int64]) -> TokenBatch:  # noqa: ARG002 - no random draws
        """These samples; the targets are the tokens of the answers, each predicted at the position before it."""
        chosen = [self.conversations.samples[sample] for sample in samples]
        ids = np.concatenate([sample.ids for sample in chosen])
        weights = np.concatenate([sample.weights for sample in chosen])
        targets = np.flatnonzero(weights)
        packed = pack(ids, np.array([len(sample.ids) for sample in chosen]))
        scales = None if (weights[targets] == 1).all() else torch.from_numpy(weights[targets])
        return TokenBatch(packed, torch.from_numpy(targets - 1), torch.from_numpy(ids[targets]), scales)

    def predict(self, model: PreTrainedModel) -> Texts:
        """A reply in place of the last answer of each conversation; the target is "" if there is no answer."""
        prompts, targets = [], []
        for row in self.rows:
            turns = conversation_of(row)
            last = last_answer(turns)
            prompts.append({name: row[name] for name in ("tools",) if name in row} | {"messages": turns[:last]})
            targets.append(turns[last]["content"] if last < len(turns) else "")
        replies = chat.Reply(model, self.context.inputs, self.inference_config(self.context))(prompts)
        return Texts(targets, [reply["text"] for reply in replies])


def conversation_of(row: Row) -> list[Row]:
    """The conversation of a row, with its answer: `chosen`, where `messages` holds the prompt only."""
    turns: list[Row] = row["messages"] + row.get("chosen", [])
    return turns
