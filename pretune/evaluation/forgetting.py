"""Forgetting: how well a decoder predicts texts of the corpus that no training saw, before training and after it.

What a model learns last replaces what it knew (McCloskey and Cohen 1989), in large language models too (Luo et al.
2023). Bits per byte on held-out text tell by how much: they need no labels, and can be compared between tokenizers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pretune.data.loading import corpus
from pretune.data.prepare.shards import Encoder
from pretune.data.rows import Row, texts
from pretune.evaluation.metrics import compute
from pretune.evaluation.metrics.bootstrap import Bootstrap, Measure, on_rows
from pretune.evaluation.slices import Mask
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
    "forgetting is not measured{part}: {found} texts of the corpus were seen by no training, at least {fewest} are "
    "needed; add texts as the split corpus of ingest.source (docs/evaluation.md){held_out}"
)


def applies(objective: type[FinetuningObjective]) -> bool:
    """Whether models of the objective predict text, before finetuning and after it."""
    return objective.auto is LanguageModelling.auto


def held_out_texts(
    folder: Path, inputs: Any, train: Sequence[Row], params: PretrainParams, seed: int
) -> dict[str, list[str]]:
    """{part of a mixture: texts}, {"": texts} without one; of texts of the corpus in `folder` that no training saw.

    They are whole documents or pieces of them, of at most LENGTH tokens, and BYTES in all for each part. Without
    pretraining they are drawn from all of the corpus, otherwise from the sequences that it held out. Documents that are
    texts of a row in `train` are left out; those of validation and test rows are not in the corpus. seed: the
    pipeline's, which drew the sequences (tasks/pretrain.py).
    """
    whole = corpus.Sequences(folder, params.sequence_length, int(inputs.pad_token_id))
    sequences = whole.divide(params.validation_rows, seed)[1] if params.steps else whole
    if sequences is None:
        return {}
    trained = _digests(inputs, [text for row in train for text in texts(row)])
    parts = sequences.by_part() or {"": sequences}
    return {name: _texts(part, inputs, trained, seed) for name, part in parts.items()}


def _texts(sequences: corpus.Sequences, inputs: Any, trained: set[bytes], seed: int) -> list[str]:
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


def unmeasured(held_out: Mapping[str, Sequence[str]], params: PretrainParams) -> list[str]:
    """Why forgetting is not measured, at all or for a part of a mixture, for a user."""
    more = ", or keep more from pretraining by pretrain.validation_rows" if params.steps else ""
    found = {f" for {name}" if name else "": len(part) for name, part in held_out.items()}
    if sum(found.values()) < FEWEST:
        found = {"": sum(found.values())}
    return [
        UNMEASURED.format(part=part, found=count, fewest=FEWEST, held_out=more)
        for part, count in found.items()
        if count < FEWEST
    ]


def evaluate(
    before: Path | str, after: Path, held_out: Mapping[str, Sequence[str]], params: EvaluateParams, seed: int
) -> dict[str, Any]:
    """Bits per byte of two models on the same texts, and their increase, paired over texts; `parts`: by part.

    before, after: models for text, which are asked with the tokenizer of the latter. held_out: {part of a mixture:
    texts}, {"": texts} without one. Parts of fewer than FEWEST texts are not measured apart.
    """
    owners = np.array([name for name, part in held_out.items() for _ in part])
    rows = [{"text": text} for part in held_out.values() for text in part]
    bits = [_bits(model, after, rows, seed) for model in (before, after)]
    bootstrap = Bootstrap(len(rows), params.bootstrap_samples, params.confidence, seed)
    parts = [name for name, part in held_out.items() if name and len(part) >= FEWEST]
    return {
        **_compared(bits, np.ones(len(rows), dtype=bool), rows, bootstrap),
        **({"parts": {name: _compared(bits, owners == name, rows, bootstrap) for name in parts}} if parts else {}),
    }


def _compared(bits: Sequence[Measure], mask: Mask, rows: Sequence[Row], bootstrap: Bootstrap) -> dict[str, Any]:
    """The estimates on the rows of `mask`. bits: bits per byte of the model before and of that after."""
    before, after = (on_rows(measure, mask) for measure in bits)
    estimates = bootstrap.estimates({"before": before, "after": after})
    return {
        "texts": int(mask.sum()),
        "bytes": sum(len(row["text"].encode()) for row, chosen in zip(rows, mask, strict=True) if chosen),
        **{name: estimate.as_dict() for name, estimate in estimates.items()},
        "increase": bootstrap.difference(after, before).as_dict(),
    }


def _bits(model: Path | str, trained: Path, rows: Sequence[Row], seed: int) -> Measure:
    """Bits per byte of `model`, which reads with the tokenizer of `trained`."""
    inputs = LanguageModelling.inputs(trained)
    length = min(LENGTH, int(inputs.model_max_length))
    loaded, _ = build.load(LanguageModelling, model)
    objective = LanguageModelling(rows, ObjectiveContext(inputs, length, seed, settings=None))
    return compute.metrics(objective.predict(loaded.eval()))["bits_per_byte"].measure


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
