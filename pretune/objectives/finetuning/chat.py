"""Shared by the objectives that train a decoder to answer conversations."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field
from transformers import AutoModelForCausalLM
from typing_extensions import override

from pretune.config.section import Section
from pretune.data.rows import Row
from pretune.objectives.base import FinetuningObjective, ObjectiveContext
from pretune.objectives.pretraining.causal_lm import CausalLM


class ChatSettings(Section):
    """template: in Jinja, null for the tokenizer's own. reply_tokens: maximum length of a generated answer."""

    template: str | None
    reply_tokens: Annotated[int, Field(ge=1)]


class ChatObjective(FinetuningObjective):
    """A decoder that answers conversations."""

    auto = AutoModelForCausalLM
    answers = "reply"
    answers_untrained = True
    Settings: ClassVar[type[Section]] = ChatSettings

    @classmethod
    @override
    def families(cls) -> list[str]:
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
