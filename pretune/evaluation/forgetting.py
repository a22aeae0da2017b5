"""Forgetting: how well a decoder predicts texts of the corpus that no training saw, before finetuning and after it.

What a model learns last replaces what it knew (McCloskey and Cohen 1989), in large language models too (Luo et al.
2023). Bits per byte on held-out text tell by how much: they need no labels, and can be compared between tokenizers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pretune.data.loading import corpus
from pretune.data.prepare.shards import Encoder
from pretune.data.rows import Row, texts
from pretune.evaluation.metrics import compute
from pretune.evaluation.metrics.bootstrap import Bootstrap
from pretune.models import build
from pretune.objectives.base import FinetuningObjective, ObjectiveContext
from pretune.objectives.finetuning.language_modelling import LanguageModelling

if TYPE_CHECKING:
    from pretune.config.params import EvaluateParams, PretrainParams

BYTES = 20_000  # of text at most: two models read some 10,000 tokens
LENGTH = 128  # tokens of a text at most: many short texts give a narrower interval than few long ones
FEWEST = 8  # texts, below which an interval means nothing
TRIED = 20_000  # pieces of the corpus that are looked at, at most
TOGETHER = 4096  # documents that are tokenized at once
UNMEASURED = (
    "forgetting is not measured: {found} texts of the corpus were seen by no training, at least {fewest} are needed; "
    "add texts as the split corpus of ingest.source (docs/evaluation.md){held_out}"
)


def applies(objective: type[FinetuningObjective]) -> bool:
    """Whether models of the objective predict text, before finetuning and after it."""
    return objective.auto is LanguageModelling.auto


def held_out_texts(folder: Path, inputs: Any, train: Sequence[Row], params: PretrainParams, seed: int) -> list[str]:
    """Texts of the corpus in `folder`, whole documents or pieces of them, of at most LENGTH tokens: BYTES in all.

    Without pretraining they are drawn from all of it, otherwise from the sequences that it held out. Documents that are
    texts of a row in `train` are left out; those of validation and test rows are not in the corpus. seed: the
    pipeline's, which drew the sequences (tasks/pretrain.py).
    """
    whole = corpus.Sequences(folder, params.sequence_length, int(inputs.pad_token_id))
    sequences = whole.divide(params.validation_rows, seed)[1] if params.steps else whole
    if sequences is None:
        return []
    trained = _digests(inputs, [text for row in train for text in texts(row)])
    found, size = [], 0
    for document, piece in _pieces(sequences, seed):
        text = inputs.decode(piece[:LENGTH], skip_special_tokens=True).strip()
        if len(piece) < 2 or not text or _digest(sequences.document(document)) in trained:
            continue
        size += len(text.encode())
        if size > BYTES:
            break
        found.append(text)
    return found


def unmeasured(found: int, params: PretrainParams) -> str:
    """Why forgetting is not measured, for a user."""
    held_out = ", or keep some from pretraining by pretrain.validation_rows" if params.steps else ""
    return UNMEASURED.format(found=found, fewest=FEWEST, held_out=held_out)


def evaluate(
    before: Path, after: Path, held_out: Sequence[str], params: EvaluateParams, seed: int
) -> dict[str, dict[str, float] | int]:
    """Bits per byte of two models on the same texts, and their increase, paired over texts.

    before, after: folders of models for text, with the same tokenizer.
    """
    rows = [{"text": text} for text in held_out]
    bits = [compute.metrics(_likelihoods(model, rows, seed))["bits_per_byte"].measure for model in (before, after)]
    bootstrap = Bootstrap(len(rows), params.bootstrap_samples, params.confidence, seed)
    estimates = bootstrap.estimates(dict(zip(("before", "after"), bits, strict=True)))
    return {
        "texts": len(rows),
        "bytes": sum(len(text.encode()) for text in held_out),
        **{name: estimate.as_dict() for name, estimate in estimates.items()},
        "increase": bootstrap.difference(bits[1], bits[0]).as_dict(),
    }


def _likelihoods(model: Path, rows: Sequence[Row], seed: int) -> Any:
    inputs = LanguageModelling.inputs(model)
    length = min(LENGTH, int(inputs.model_max_length))
    loaded, _ = build.load(LanguageModelling, model)
    return LanguageModelling(rows, ObjectiveContext(inputs, length, seed, settings=None)).predict(loaded.eval())


def _pieces(sequences: corpus.Sequences, seed: int) -> Iterator[tuple[int, corpus.Tokens]]:
    """Pieces of random rows of the corpus, each with the number of its document: TRIED at most."""
    tried = 0
    for row in np.random.default_rng([seed, 4]).permutation(len(sequences)):
        for piece in sequences.pieces(int(row)):
            yield piece
            tried += 1
            if tried == TRIED:
                return


def _digests(inputs: Any, documents: list[str]) -> set[bytes]:
    """The digests of documents, tokenized as `prepare` does for the corpus."""
    encode, digests = Encoder(inputs), set[bytes]()
    for start in range(0, len(documents), TOGETHER):
        tokens, sizes = encode(documents[start : start + TOGETHER])
        digests.update(_digest(part) for part in np.split(tokens, np.cumsum(sizes)[:-1]))
    return digests


def _digest(tokens: npt.NDArray[Any]) -> bytes:
    return hashlib.blake2b(tokens.astype(np.uint32).tobytes(), digest_size=16).digest()
