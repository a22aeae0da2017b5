"""The predictor of models that tag the words of a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from typing_extensions import override

from .text import Row, Text


class Tags(Text):
    """Predicts a tag for each word; words beyond the maximum length get `O`, or the first label if there is no `O`."""

    auto = "AutoModelForTokenClassification"
    reads: ClassVar[dict[str, str]] = {"words": "list(string)"}
    gives: ClassVar[dict[str, str]] = {"tags": "list(string)"}

    @override
    def size(self, row: Row) -> int:
        return len(" ".join(row["words"]))

    @override
    def answer(self, rows: Sequence[Row]) -> list[Row]:
        encoded = [encode(self.tokenizer, list(row["words"]), self.inference_config["length"]) for row in rows]
        batch = self.tokenizer.pad({"input_ids": [ids for ids, _ in encoded]}, return_tensors="pt")
        inputs = {name: batch[name].to(self.model.device) for name in ("input_ids", "attention_mask")}
        best = self.model(**inputs).logits.argmax(dim=-1).tolist()
        labels = self.inference_config["labels"]
        unread = "O" if "O" in labels else labels[0]
        answers = []
        for row, label_ids, (_, firsts) in zip(rows, best, encoded, strict=True):
            tags = [unread] * len(row["words"])
            for position, word in firsts:
                tags[word] = labels[label_ids[position]]
            answers.append({"tags": tags})
        return answers


def encode(tokenizer: Any, words: Sequence[str], length: int) -> tuple[list[int], list[tuple[int, int]]]:
    """Token ids of the words, joined by spaces and cut at `length` tokens; and the first token of each word.

    The first tokens are pairs (position, index of the word).
    """
    encoded = tokenizer(" ".join(words), truncation=True, max_length=length, return_offsets_mapping=True)
    ends = torch.tensor([len(word) + 1 for word in words]).cumsum(0).tolist()
    firsts: list[tuple[int, int]] = []
    word = -1
    for position, (start, end) in enumerate(encoded["offset_mapping"]):
        if start == end:  # a special token
            continue
        number = next((index for index in range(max(word, 0), len(ends)) if end <= ends[index]), word)
        if number != word:
            firsts.append((position, number))
            word = number
    return encoded["input_ids"], firsts
