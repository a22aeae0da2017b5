"""Answers of models that read a text: its class, words filled in, how it goes on.

Each class says what columns it reads and gives, with their types in MLflow's words (`?`: may be missing).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Self

import torch
import transformers
from torch import Tensor
from typing_extensions import override

from . import inputs
from .inputs import OFFLINE

ROWS = 32  # per forward pass
PADDED = 1.125  # longest over shortest of the rows that are asked together
CONTINUATION = 32  # tokens
Row = dict[str, Any]


class Text:
    """A model and its tokenizer; texts of similar length go together, so that little is padded."""

    auto: ClassVar[str]
    reads: ClassVar[dict[str, str]] = {"text": "string", "pair": "string?"}
    gives: ClassVar[dict[str, str]]

    def __init__(self, model: Any, tokenizer: Any, inference_config: Row) -> None:
        self.model, self.tokenizer, self.inference_config = model, tokenizer, inference_config

    @classmethod
    def load(cls, folder: str, inference_config: Row) -> Self:
        """What `save` left in `folder`."""
        model = getattr(transformers, cls.auto).from_pretrained(folder, use_safetensors=True, **OFFLINE)
        return cls(model.eval(), inputs.tokenizer(folder), inference_config)

    def __call__(self, rows: Sequence[Row]) -> list[Row]:
        """One answer for each row, in their order."""
        answers: list[Row] = [{} for _ in rows]
        with torch.inference_mode():
            for places in self._together(rows):
                found = self.answer([rows[place] for place in places])
                for place, answer in zip(places, found, strict=True):
                    answers[place] = answer
        return answers

    def answer(self, rows: Sequence[Row]) -> list[Row]:
        """The answers to a few rows, asked together."""
        raise NotImplementedError

    def encoded(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """Token ids and masks of the texts (and pairs), cut as in training, padded to the longest: (rows, longest)."""
        texts = [str(row["text"]) for row in rows]
        pairs = [str(row["pair"]) for row in rows] if rows and "pair" in rows[0] else None
        limit = {
            "truncation": True,
            "max_length": self.inference_config["length"],
            "padding": True,
            "return_tensors": "pt",
        }
        found = self.tokenizer(texts, pairs, return_token_type_ids=pairs is not None, **limit)
        names = ["input_ids", "attention_mask"]
        if "token_type_ids" in found and getattr(self.model.config, "type_vocab_size", 0) > 1:
            names.append("token_type_ids")
        return {name: found[name].to(self.model.device) for name in names}

    def logits(self, rows: Sequence[Row]) -> Tensor:
        """What the model's head says: (rows, ...) float32, in the order of the rows."""
        parts: list[Tensor] = []
        order: list[int] = []
        with torch.inference_mode():
            for places in self._together(rows):
                parts.append(self.model(**self.encoded([rows[place] for place in places])).logits.float().cpu())
                order += places
        return torch.cat(parts)[torch.argsort(torch.tensor(order))]

    def size(self, row: Row) -> int:
        """How long a row is: tokens, cut as in training."""
        limit = {"truncation": True, "max_length": self.inference_config["length"]}
        return len(self.tokenizer(str(row["text"]), row.get("pair"), **limit)["input_ids"])

    def _together(self, rows: Sequence[Row]) -> Iterator[list[int]]:
        """The places of rows of about the same length; those with a pair apart from those without."""
        if len(rows) == 1:
            yield [0]
            return
        sizes = [("pair" in row, self.size(row)) for row in rows]
        batch: list[int] = []
        for place in sorted(range(len(rows)), key=sizes.__getitem__):
            (pair, size), (first_pair, first) = sizes[place], sizes[batch[0] if batch else place]
            if len(batch) == ROWS or pair != first_pair or size > PADDED * first + 2:
                yield batch
                batch = []
            batch.append(place)
        if batch:
            yield batch


class Class(Text):
    """The likeliest class of each text, with its probability."""

    auto = "AutoModelForSequenceClassification"
    gives: ClassVar[dict[str, str]] = {"label": "string", "score": "double"}

    def probabilities(self, rows: Sequence[Row]) -> Tensor:
        """Of each class: (rows, classes)."""
        return torch.softmax(calibrated(self.logits(rows), self.inference_config), dim=-1)

    @override
    def __call__(self, rows: Sequence[Row]) -> list[Row]:
        if not rows:
            return []
        return likeliest(self.probabilities(rows), self.inference_config["labels"])


def calibrated(logits: Tensor, inference_config: Row) -> Tensor:
    """Logits by the temperature that was fitted on the validation rows, if one was (Guo et al. 2017)."""
    return logits / inference_config["temperature"] if "temperature" in inference_config else logits


def likeliest(probabilities: Tensor, labels: Sequence[str]) -> list[Row]:
    """The label that each of (rows, classes) says, with its probability."""
    scores, best = probabilities.max(dim=-1)
    return [
        {"label": labels[index], "score": score} for index, score in zip(best.tolist(), scores.tolist(), strict=True)
    ]


class Binary(Text):
    """Which of two classes each text has, by one logit, with its probability."""

    auto = "AutoModelForSequenceClassification"
    gives: ClassVar[dict[str, str]] = {"label": "string", "score": "double"}

    def probabilities(self, rows: Sequence[Row]) -> Tensor:
        """Of the second class: (rows, 1)."""
        return torch.sigmoid(calibrated(self.logits(rows), self.inference_config))

    @override
    def __call__(self, rows: Sequence[Row]) -> list[Row]:
        labels = self.inference_config["labels"]
        second = self.probabilities(rows)[:, 0].tolist() if rows else []
        return [{"label": labels[p > 0.5], "score": max(p, 1 - p)} for p in second]


class Labels(Text):
    """The classes of each text that are likelier than not, with their probabilities."""

    auto = "AutoModelForSequenceClassification"
    gives: ClassVar[dict[str, str]] = {"labels": "list(string)", "scores": "list(double)"}

    def probabilities(self, rows: Sequence[Row]) -> Tensor:
        """Of each class: (rows, classes)."""
        return torch.sigmoid(calibrated(self.logits(rows), self.inference_config))

    @override
    def __call__(self, rows: Sequence[Row]) -> list[Row]:
        names = self.inference_config["labels"]
        answers = []
        for row in self.probabilities(rows).tolist() if rows else []:
            likely = [(name, p) for name, p in zip(names, row, strict=True) if p > 0.5]
            answers.append({"labels": [name for name, _ in likely], "scores": [p for _, p in likely]})
        return answers


class Number(Text):
    """The number that each text has."""

    auto = "AutoModelForSequenceClassification"
    gives: ClassVar[dict[str, str]] = {"score": "double"}

    @override
    def __call__(self, rows: Sequence[Row]) -> list[Row]:
        return [{"score": value} for (value,) in self.logits(rows).tolist()] if rows else []


class Filled(Text):
    """Each text with its masked tokens filled in, and the mean probability of what stands there now."""

    auto = "AutoModelForMaskedLM"
    reads: ClassVar[dict[str, str]] = {"text": "string"}
    gives: ClassVar[dict[str, str]] = {"text": "string", "score": "double"}

    @override
    def answer(self, rows: Sequence[Row]) -> list[Row]:
        batch = self.encoded(rows)
        scores, best = torch.softmax(self.model(**batch).logits.float(), dim=-1).max(dim=-1)
        hidden = batch["input_ids"] == self.tokenizer.mask_token_id
        filled = self.tokenizer.batch_decode(torch.where(hidden, best, batch["input_ids"]), skip_special_tokens=True)
        means = [
            float(row[where].mean()) if where.any() else float("nan") for row, where in zip(scores, hidden, strict=True)
        ]
        return [{"text": text, "score": mean} for text, mean in zip(filled, means, strict=True)]


class Continued(Text):
    """Each text with what most likely follows it, token by token."""

    auto = "AutoModelForCausalLM"
    reads: ClassVar[dict[str, str]] = {"text": "string"}
    gives: ClassVar[dict[str, str]] = {"text": "string"}

    @override
    def answer(self, rows: Sequence[Row]) -> list[Row]:
        texts = [str(row["text"]) for row in rows]
        return [{"text": self._written(asked, new)} for asked, new in map(self._continue, texts)]

    def continuation(self, text: str) -> str:
        """What most likely follows a text, without the text."""
        return self._written([], self._continue(text)[1])

    def _continue(self, text: str) -> tuple[list[int], list[int]]:
        """The tokens of a text, and those that follow."""
        ids = self.tokenizer(text)["input_ids"]
        if len(ids) > 1 and ids[-1] == self.tokenizer.sep_token_id:
            ids = ids[:-1]  # it would say that the text ends here
        asked = torch.tensor([ids[-(self.inference_config["length"] - 1) :]], device=self.model.device)
        more = min(CONTINUATION, self.inference_config["length"] - asked.shape[1])
        found = self.model.generate(asked, attention_mask=torch.ones_like(asked), max_new_tokens=more, do_sample=False)
        return asked[0].tolist(), found[0, asked.shape[1] :].tolist()

    def _written(self, asked: list[int], new: list[int]) -> str:
        return str(self.tokenizer.decode(asked + new, skip_special_tokens=True))
