"""Instruction tuning of a decoder (Wei et al. 2022): conversations in a chat template, loss on the answers.

A tokenizer without a chat template gets a plain one, which is saved with the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from transformers import AutoModelForCausalLM, PreTrainedModel
from typing_extensions import override

from pretune.config.section import Section
from pretune.data.loading.varlen import pack
from pretune.data.rows import Row, last_answer
from pretune.errors import DataError, ParamsError
from pretune.objectives.base import FinetuningObjective, ObjectiveContext
from pretune.objectives.predictions import Texts
from pretune.objectives.pretraining.causal_lm import CausalLM
from pretune.objectives.requirements import COLUMNS
from pretune.objectives.tokens import TokenBatch, TokenObjective
from pretune.predictor import chat, conversation
from pretune.predictor.conversation import ConversationError


class Instruction(TokenObjective, FinetuningObjective):
    """Predicts each token of the assistant's messages from all tokens before it; other messages are input only."""

    auto = AutoModelForCausalLM
    columns = COLUMNS["instruction"]
    answers = "reply"
    answers_untrained = True

    class Settings(Section):
        """template: in Jinja, null for the tokenizer's own. reply_tokens: maximum length of a generated answer."""

        template: str | None
        reply_tokens: Annotated[int, Field(ge=1)]

    def __init__(self, rows: Sequence[Row], context: ObjectiveContext) -> None:
        self.rows, self.context = rows, context
        tokenizer = context.inputs
        tokenizer.chat_template = context.settings.template or tokenizer.chat_template or conversation.PLAIN
        self.texts: list[npt.NDArray[np.int64]] = []
        self.answered: list[npt.NDArray[np.bool_]] = []
        for row in rows:
            ids, answered = encode(tokenizer, row["messages"], context.length)
            self.texts.append(ids)
            self.answered.append(answered)
        if rows and not any(answered.any() for answered in self.answered):
            raise DataError(
                f"no row has an answer (role: assistant) within {context.length} tokens",
                "raise finetune.sequence_length in params.yaml, or fix the data",
            )

    @classmethod
    def families(cls) -> list[str]:
        """Decoders."""
        return CausalLM.families()

    @classmethod
    @override
    def inference_config(cls, context: ObjectiveContext) -> dict[str, Any]:
        return super().inference_config(context) | {"reply_tokens": context.settings.reply_tokens}

    @classmethod
    @override
    def example(cls, context: ObjectiveContext) -> Row:
        return {"messages": [{"role": "user", "content": "What does os.path.abspath return?"}]}

    def __len__(self) -> int:
        return len(self.texts)

    def batch(self, epochs: npt.NDArray[np.int64], samples: npt.NDArray[np.int64]) -> TokenBatch:  # noqa: ARG002 - no random draws
        """These conversations; the targets are the tokens of the answers, each predicted at the position before it."""
        ids = np.concatenate([self.texts[sample] for sample in samples])
        lengths = np.array([len(self.texts[sample]) for sample in samples])
        answered = np.concatenate([self.answered[sample] for sample in samples])
        targets = np.flatnonzero(answered)
        return TokenBatch(pack(ids, lengths), torch.from_numpy(targets - 1), torch.from_numpy(ids[targets]))

    def predict(self, model: PreTrainedModel) -> Texts:
        """A reply in place of the last answer of each conversation; the target is "" if there is no answer."""
        prompts, targets = [], []
        for row in self.rows:
            turns = row["messages"]
            last = last_answer(turns)
            prompts.append({"messages": turns[:last]})
            targets.append(turns[last]["content"] if last < len(turns) else "")
        replies = chat.Reply(model, self.context.inputs, self.inference_config(self.context))(prompts)
        return Texts(targets, [reply["text"] for reply in replies])


def encode(tokenizer: Any, messages: list[Row], length: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Token ids of the conversation, cut at `length` tokens, and which of them belong to an answer: (tokens,) both."""
    text = _render(tokenizer, messages)
    spans = []  # of the answers, in characters
    for number, message in enumerate(messages):
        if message["role"] == "assistant" and number:
            before = _render(tokenizer, messages[:number], add_generation_prompt=True)
            after = _render(tokenizer, messages[: number + 1])
            if not (after.startswith(before) and text.startswith(after)):
                raise DataError(
                    "the chat template renders a message differently once others follow: "
                    "the position of the answers is not known",
                    "name another finetune.settings.template in params.yaml",
                )
            spans.append((len(before), len(after)))
    encoded = tokenizer(text, add_special_tokens=False, truncation=True, max_length=length, return_offsets_mapping=True)
    starts, ends = np.array(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2).T
    answered = np.zeros(len(starts), dtype=bool)
    for begin, end in spans:
        answered |= (ends > begin) & (starts < end)  # the first token of an answer may begin with the space before it
    answered[:1] = False  # no token precedes it
    return np.array(encoded["input_ids"], dtype=np.int64), answered


def _render(tokenizer: Any, messages: list[Row], **options: Any) -> str:
    try:
        return conversation.render(tokenizer, messages, **options)
    except ConversationError as error:
        raise ParamsError(
            f"finetune.settings.template: {error}", "fix the template (docs/models.md), then run again"
        ) from None
