"""The predictor of chat models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from typing_extensions import override

from .conversation import render
from .text import Row, Text


class Reply(Text):
    """Generates a reply to the last message of each conversation, by greedy search."""

    auto = "AutoModelForCausalLM"
    reads: ClassVar[dict[str, str]] = {"messages": "list(message)"}
    gives: ClassVar[dict[str, str]] = {"text": "string"}

    @override
    def size(self, row: Row) -> int:
        return sum(len(message["content"]) for message in row["messages"])

    @override
    def answer(self, rows: Sequence[Row]) -> list[Row]:
        return [{"text": self._reply(list(row["messages"]), row.get("tools"))} for row in rows]

    def _reply(self, messages: list[Row], tools: str | None) -> str:
        text = render(self.tokenizer, messages, tools, add_generation_prompt=True)
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        new_tokens = self.inference_config["reply_tokens"]
        prompt = torch.tensor([ids[-max(1, self.inference_config["length"] - new_tokens) :]], device=self.model.device)
        output = self.model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=new_tokens, do_sample=False,
            eos_token_id=end_of_turn(self.tokenizer), pad_token_id=self.tokenizer.pad_token_id,
        )  # fmt: skip
        return str(self.tokenizer.decode(output[0, prompt.shape[1] :], skip_special_tokens=True)).strip()


def end_of_turn(tokenizer: Any) -> int:
    """The id of the token that ends a message."""
    return int(tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id)
