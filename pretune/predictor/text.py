"""The predictors of text models: classes, numbers, masked tokens, continuations.

`reads` and `gives` are the input and output columns with their types in MLflow's terms; `?` marks optional ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Self

import torch
import transformers
from torch import Tensor
from typing_extensions import override

from . import decoding, inputs
from .inputs import OFFLINE

ROWS = 32  # per forward pass
PADDED = 1.125  # longest over shortest row of a batch
CONTINUATION = 32  # tokens
Row = dict[str, Any]


class Text:
    """A model and its tokenizer. Texts of similar length share a batch, so that there is little padding."""

    auto: ClassVar[str]
    reads: ClassVar[dict[str, str]] = {"text": "string", "pair": "string?"}
    gives: ClassVar[dict[str, str]]
    generated: ClassVar[str | None] = None  # the column of `gives` whose text is generated token by token

    def __init__(self, model: Any, tokenizer: Any, inference_config: Row) -> None:
        self.model, self.tokenizer, self.inference_config = model, tokenizer, inference_config

    @classmethod
    def load(cls, folder: str, inference_config: Row) -> Self:
        """Load the model that `save` wrote to `folder`."""
        loading = OFFLINE | {"use_safetensors": True, "dtype": torch.float32}  # as stages compute, however it is saved
        model = getattr(transformers, cls.auto).from_pretrained(folder, **loading)
        return cls(model.eval(), inputs.tokenizer(folder), inference_config)

    def __call__(self, rows: Sequence[Row]) -> list[Row]:
        """One output row for each row, in the same order."""
        answers: list[Row] = [{} for _ in rows]
        with torch.inference_mode():
            for indices in self._batches(rows):
                batch = self.answer([rows[index] for index in indices])
                for index, answer in zip(indices, batch, strict=True):
                    answers[index] = answer
        return answers

    def answer(self, rows: Sequence[Row]) -> list[Row]:
        """The output rows of one batch."""
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
        encoded = self.tokenizer(texts, pairs, return_token_type_ids=pairs is not None, **limit)
        names = ["input_ids", "attention_mask"]
        if "token_type_ids" in encoded and getattr(self.model.config, "type_vocab_size", 0) > 1:
            names.append("token_type_ids")
        return {name: encoded[name].to(self.model.device) for name in names}

    def logits(self, rows: Sequence[Row]) -> Tensor:
        """The outputs of the head: (rows, ...) float32 on the CPU, in the order of the rows."""
        parts: list[Tensor] = []
        order: list[int] = []
        with torch.inference_mode():
            for indices in self._batches(rows):
                parts.append(self.model(**self.encoded([rows[index] for index in indices])).logits.float().cpu())
                order += indices
        return torch.cat(parts)[torch.argsort(torch.tensor(order))]

    def size(self, row: Row) -> int:
        """Length of a row in tokens, cut as in training."""
        limit = {"truncation": True, "max_length": self.inference_config["length"]}
        return len(self.tokenizer(str(row["text"]), row.get("pair"), **limit)["input_ids"])

    def _batches(self, rows: Sequence[Row]) -> Iterator[list[int]]:
        """The indices of rows of about the same length; rows with a pair and without never share a batch."""
        if len(rows) == 1:
            yield [0]
            return
        sizes = [("pair" in row, self.size(row)) for row in rows]
        batch: list[int] = []
        for index in sorted(range(len(rows)), key=sizes.__getitem__):
            (pair, size), (first_pair, first) = sizes[index], sizes[batch[0] if batch else index]
            if len(batch) == ROWS or pair != first_pair or size > PADDED * first + 2:
                yield batch
                batch = []
            batch.append(index)
        if batch:
            yield batch


class Class(Text):
    """Predicts the class of each text, with its probability."""

    auto = "AutoModelForSequenceClassification"
    gives: ClassVar[dict[str, str]] = {"label": "string", "score": "double"}

    def probabilities(self, rows: Sequence[Row]) -> Tensor:
        """The probability of each class: (rows, classes)."""
        return torch.softmax(calibrated(self.logits(rows), self.inference_config), dim=-1)

    @override
    def __call__(self, rows: Sequence[Row]) -> list[Row]:
        if not rows:
            return []
        return likeliest(self.probabilities(rows), self.inference_config["labels"])


def calibrated(logits: Tensor, inference_config: Row) -> Tensor:
    """Logits divided by the temperature fitted on the validation rows, if there is one (Guo et al. 2017)."""
    return logits / inference_config["temperature"] if "temperature" in inference_config else logits


def likeliest(probabilities: Tensor, labels: Sequence[str]) -> list[Row]:
    """The most likely label of each row, with its probability. probabilities: (rows, classes)."""
    scores, best = probabilities.max(dim=-1)
    return [
        {"label": labels[index], "score": score} for index, score in zip(best.tolist(), scores.tolist(), strict=True)
    ]


class Binary(Text):
    """Predicts which of two classes each text has, by one logit, with its probability."""

    auto = "AutoModelForSequenceClassification"
    gives: ClassVar[dict[str, str]] = {"label": "string", "score": "double"}

    def probabilities(self, rows: Sequence[Row]) -> Tensor:
        """The probability of the second class: (rows, 1)."""
        return torch.sigmoid(calibrated(self.logits(rows), self.inference_config))

    @override
    def __call__(self, rows: Sequence[Row]) -> list[Row]:
        labels = self.inference_config["labels"]
        second = self.probabilities(rows)[:, 0].tolist() if rows else []
        return [{"label": labels[p > 0.5], "score": max(p, 1 - p)} for p in second]


class Labels(Text):
    """Predicts the classes of each text with probability above 0.5, with their probabilities."""

    auto = "AutoModelForSequenceClassification"
    gives: ClassVar[dict[str, str]] = {"labels": "list(string)", "scores": "list(double)"}

    def probabilities(self, rows: Sequence[Row]) -> Tensor:
        """The probability of each class: (rows, classes)."""
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
    """Predicts a number for each text."""

    auto = "AutoModelForSequenceClassification"
    gives: ClassVar[dict[str, str]] = {"score": "double"}

    @override
    def __call__(self, rows: Sequence[Row]) -> list[Row]:
        return [{"score": value} for (value,) in self.logits(rows).tolist()] if rows else []


class Filled(Text):
    """Fills in the masked tokens of each text; the score is the mean probability of the tokens filled in."""

    auto = "AutoModelForMaskedLM"
    reads: ClassVar[dict[str, str]] = {"text": "string"}
    gives: ClassVar[dict[str, str]] = {"text": "string", "score": "double"}

    @override
    def answer(self, rows: Sequence[Row]) -> list[Row]:
        batch = self.encoded(rows)
        scores, best = torch.softmax(self.model(**batch).logits.float(), dim=-1).max(dim=-1)
        masked = batch["input_ids"] == self.tokenizer.mask_token_id
        filled = self.tokenizer.batch_decode(torch.where(masked, best, batch["input_ids"]), skip_special_tokens=True)
        means = [
            float(row[mask].mean()) if mask.any() else float("nan") for row, mask in zip(scores, masked, strict=True)
        ]
        return [{"text": text, "score": mean} for text, mean in zip(filled, means, strict=True)]


class Continued(Text):
    """Continues each text by greedy search."""

    auto = "AutoModelForCausalLM"
    reads: ClassVar[dict[str, str]] = {"text": "string"}
    gives: ClassVar[dict[str, str]] = {"text": "string"}
    generated = "text"

    @override
    def __call__(self, rows: Sequence[Row]) -> list[Row]:
        return [
            {"text": self._decode(prompt + new)} for prompt, new in self._continue([str(row["text"]) for row in rows])
        ]

    def continuations(self, texts: Sequence[str]) -> list[str]:
        """What follows each text, without the text."""
        return [self._decode(new) for _, new in self._continue(texts)]

    def _continue(self, texts: Sequence[str]) -> list[tuple[list[int], list[int]]]:
        """The token ids of each text, cut at the maximum length, and those generated after it."""
        length = self.inference_config["length"]
        prompts = [self._prompt(text)[-(length - 1) :] for text in texts]
        limits = [min(CONTINUATION, length - len(prompt)) for prompt in prompts]
        eos = self.model.generation_config.eos_token_id
        stop = [eos] if isinstance(eos, int) else eos or []
        return list(zip(prompts, decoding.generate(self.model, prompts, limits, stop), strict=True))

    def _prompt(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text)["input_ids"]
        return ids[:-1] if len(ids) > 1 and ids[-1] == self.tokenizer.sep_token_id else ids  # it would end the text

    def _decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))
