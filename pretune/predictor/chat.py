"""The predictors of chat models and of reward models."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor
from typing_extensions import override

from . import decoding
from .conversation import render, stop, without_thought
from .text import Number, Row, Text

logger = logging.getLogger(__name__)


class Reply(Text):
    """Generates a reply to the last message of each conversation, by greedy search."""

    auto = "AutoModelForCausalLM"
    reads: ClassVar[dict[str, str]] = {"messages": "list(message)", "tools": "any?"}
    gives: ClassVar[dict[str, str]] = {"text": "string"}
    generated = "text"

    @override
    def __call__(self, rows: Sequence[Row]) -> list[Row]:
        prompts = [self.prompt(row) for row in rows]
        new, room = self.inference_config["reply_tokens"], self.room
        if cut := sum(len(prompt) > room for prompt in prompts):
            logger.warning(
                "warning: %d of %d conversations are longer than %d tokens: only their ends are read",
                cut,
                len(rows),
                room,
            )
        replies = decoding.generate(self.model, [prompt[-room:] for prompt in prompts], [new] * len(rows), self.stop)
        return [{"text": self.text(reply)} for reply in replies]

    @property
    def room(self) -> int:
        """Tokens of a conversation that are read: what an answer leaves of the length in training."""
        return max(1, int(self.inference_config["length"] - self.inference_config["reply_tokens"]))

    @property
    def stop(self) -> list[int]:
        """The tokens that end an answer: the end of a turn, and those that the checkpoint names."""
        named = self.model.generation_config.eos_token_id if self.model.can_generate() else None
        return sorted({*stop(self.tokenizer), *_ids(named)})

    def prompt(self, row: Row) -> list[int]:
        """The token ids of a conversation, up to where the answer begins."""
        text = render(self.tokenizer, list(row["messages"]), row.get("tools"), add_generation_prompt=True)
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def text(self, ids: Sequence[int]) -> str:
        """The answer that these tokens write, without special tokens and without the thought before it."""
        whole = str(self.tokenizer.decode(ids, skip_special_tokens=False))
        if (answer := without_thought(whole)) == whole:
            return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()
        for token in self.tokenizer.all_special_tokens:
            answer = answer.replace(token, "")
        return answer.strip()


class Reward(Number):
    """Scores the last answer of each conversation: the larger the better."""

    reads: ClassVar[dict[str, str]] = {"messages": "list(message)", "tools": "any?"}
    gives: ClassVar[dict[str, str]] = {"score": "double"}

    @override
    def encoded(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        limit = {"truncation": True, "max_length": self.inference_config["length"]}
        names = {"return_token_type_ids": False, "padding": True, "return_tensors": "pt"}
        batch = self.tokenizer([self._text(row) for row in rows], add_special_tokens=False, **limit, **names)
        return {name: batch[name].to(self.model.device) for name in ("input_ids", "attention_mask")}

    @override
    def size(self, row: Row) -> int:
        ids = self.tokenizer(self._text(row), add_special_tokens=False)["input_ids"]
        return min(int(self.inference_config["length"]), len(ids))

    def _text(self, row: Row) -> str:
        return render(self.tokenizer, list(row["messages"]), row.get("tools"))


def end_of_turn(tokenizer: Any) -> int:
    """The id of the token that ends a text, and a message where the template does not name another."""
    return int(tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id)


def _ids(named: int | list[int] | None) -> list[int]:
    return [named] if isinstance(named, int) else list(named or ())
