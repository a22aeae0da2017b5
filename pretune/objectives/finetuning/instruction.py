"""Instruction tuning of a decoder (Wei et al. 2022): conversations in a chat template, loss on the answers.

A tokenizer without a chat template gets a plain one, which is saved with the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from transformers import AutoModelForCausalLM, PreTrainedModel
from typing_extensions import override

from pretune.config.section import Section
from pretune.data.loading.varlen import pack
from pretune.data.rows import Row, last_answer
from pretune.objectives.base import FinetuningObjective, ObjectiveContext
from pretune.objectives.conversations import Conversations, Encoder
from pretune.objectives.generated import METRICS
from pretune.objectives.predictions import Texts
from pretune.objectives.pretraining.causal_lm import CausalLM
from pretune.objectives.requirements import COLUMNS
from pretune.objectives.tokens import TokenBatch, TokenObjective
from pretune.predictor import chat, conversation


class Instruction(TokenObjective, FinetuningObjective):
    """Predicts each token of the assistant's messages from all tokens before it; other messages are input only."""

    auto = AutoModelForCausalLM
    columns = COLUMNS["instruction"]
    answers = "reply"
    generated = METRICS
    answers_untrained = True

    class Settings(Section):
        """template: in Jinja, null for the tokenizer's own. reply_tokens: maximum length of a generated answer.

        loss: on all answers or the last of each conversation. reasoning: whether thoughts are learnt or input only.
        too_long: what becomes of conversations beyond sequence_length.
        """

        template: str | None
        reply_tokens: Annotated[int, Field(ge=1)]
        loss: Literal["all", "last"]
        reasoning: Literal["trained", "masked"]
        too_long: Literal["cut", "drop", "split"]

    def __init__(self, rows: Sequence[Row], context: ObjectiveContext) -> None:
        self.rows, self.context = rows, context
        tokenizer = context.inputs
        tokenizer.chat_template = context.settings.template or tokenizer.chat_template or conversation.PLAIN

    @cached_property
    def conversations(self) -> Conversations:
        """The rows as samples; made when they are needed, for predictions need none."""
        settings = self.context.settings
        encoder = Encoder(self.context.inputs, loss=settings.loss, reasoning=settings.reasoning)
        rows = [row | {"messages": conversation_of(row)} for row in self.rows]
        return Conversations.of(rows, encoder, self.context.length, settings.too_long)

    @classmethod
    def families(cls) -> list[str]:
        """Decoders."""
        return CausalLM.families()

    @classmethod
    @override
    def conflicts(cls, settings: Any, sequence_length: int) -> list[str]:
        if settings.reply_tokens < sequence_length:
            return []
        room = f"settings.reply_tokens {settings.reply_tokens} leaves no room for a prompt"
        return [f"{room}: it must be below sequence_length {sequence_length}, which holds both"]

    @classmethod
    @override
    def inference_config(cls, context: ObjectiveContext) -> dict[str, Any]:
        return super().inference_config(context) | {"reply_tokens": context.settings.reply_tokens}

    @classmethod
    @override
    def example(cls, context: ObjectiveContext) -> Row:
        return {"messages": [{"role": "user", "content": "What does os.path.abspath return?"}]}

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
