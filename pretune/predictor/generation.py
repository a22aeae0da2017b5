"""The predictor of sequence-to-sequence models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from typing_extensions import override

from .text import Row, Text


class Written(Text):
    """Generates a target for each text, by greedy or beam search."""

    auto = "AutoModelForSeq2SeqLM"
    reads: ClassVar[dict[str, str]] = {"text": "string"}
    gives: ClassVar[dict[str, str]] = {"target": "string"}
    generated = "target"

    @override
    def answer(self, rows: Sequence[Row]) -> list[Row]:
        ids = self.model.generate(
            **self.encoded(rows),
            max_new_tokens=self.inference_config["target_length"],
            num_beams=self.inference_config["beams"],
            do_sample=False,
        )
        return [{"target": text.strip()} for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]
