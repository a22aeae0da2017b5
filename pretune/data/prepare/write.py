"""Writes the outputs of `prepare`: labelled rows, the corpus, and the input pipeline of the model."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pretune.data import rows, tokenizer
from pretune.data.loading import arrays
from pretune.data.loading.corpus import Part, write_parts
from pretune.data.prepare import images, splits
from pretune.data.prepare.mixing import Mixing
from pretune.data.prepare.shards import Shards
from pretune.data.prepare.split_assignment import SplitAssignment
from pretune.data.rows import Row
from pretune.errors import DataError

if TYPE_CHECKING:
    from pretune.config.data import PrepareParams

SAMPLE = 50_000_000  # characters on which a tokenizer is trained, spread over all documents


def write_labelled(
    folder: Path, assignment: SplitAssignment, names: dict[str, list[str]], params: PrepareParams
) -> dict[str, Any]:
    """Write train, validation and test rows and `labels.json`; return {split: {label: number of rows}}.

    labels.json holds the labels of the training rows in the order of their ids, or the names of `y` for numbers, or
    nothing. The rows open with `datasets`, and the ids are the same there. Raises DataError for splits that cannot be
    trained on.
    """
    columns: dict[str, set[str]] = {}
    counts = {split: _count_labels(assignment.rows_of(split), columns) for split in splits.SPLITS}
    _check(counts, assignment, params)
    folder.mkdir(parents=True)
    classes = {column: splits.sort_labels(columns[column]) for column in rows.CLASSES if column in columns}
    for split in splits.SPLITS:
        rows.write_features(folder / f"{split}.parquet", assignment.rows_of(split), columns, classes)
    labels = names.get("y", splits.sort_labels(counts["train"]))
    (folder / "labels.json").write_text(json.dumps(labels, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return counts


def write_weights(folder: Path, weights: dict[str, float]) -> None:
    """Write weights.json, {part: weight} of a mixture; nothing for any other source."""
    if weights:
        (folder / "weights.json").write_text(json.dumps(weights, indent=1) + "\n", encoding="utf-8")


def _check(counts: dict[str, dict[str, int]], assignment: SplitAssignment, params: PrepareParams) -> None:
    """Raise DataError for empty splits, labels that no training row has, and a single label."""
    problems = []
    for split in splits.SPLITS:
        limit = getattr(params, f"{split}_rows")
        if limit != 0 and not len(getattr(assignment, split)) and (split != "validation" or limit):
            problems.append(f"no row is left for {split}; prepare.{split}_rows is {'null' if limit is None else limit}")
    unseen = sorted({label for split_counts in counts.values() for label in split_counts} - set(counts["train"]))
    if unseen and len(assignment.train):
        problems.append(f"no training row has the label {', '.join(unseen)}, which test or validation rows have")
    if len(counts["train"]) == 1:
        problems.append(f"all training rows have the same label ({next(iter(counts['train']))}): nothing to learn")
    if problems:
        raise DataError(
            problems, "change prepare.test_share, prepare.train_rows or the seed in params.yaml, or add rows"
        )


def _count_labels(split_rows: Iterable[Row], columns: dict[str, set[str]]) -> dict[str, int]:
    """{label: number of rows}; each column that occurs is added to `columns`, with the names of classes in it."""
    counts: Counter[str] = Counter()
    for row in split_rows:
        counts.update(splits.labels_of(row))
        for column, value in row.items():
            names = columns.setdefault(column, set())
            if column in rows.CLASSES:
                names.update([value] if isinstance(value, str) else value)
    return dict(sorted(counts.items()))


@dataclass(frozen=True)
class CorpusOutputs:
    """Folders of the corpus, of the input pipeline, and of the state from which a stopped run continues.

    storage: the address of the storage for tokens, "" for this disk.
    """

    corpus: Path
    inputs: Path
    checkpoints: Path
    storage: str = ""


def write_corpus(
    out: CorpusOutputs,
    assignment: SplitAssignment,
    names: dict[str, list[str]],
    params: PrepareParams,
    resolve_input: Callable[[str], Path],
    *,
    mixing: Mixing,
) -> dict[str, Any]:
    """Write the corpus and the input pipeline for images, numbers or text; return the size of the corpus.

    `resolve_input` returns the folder of a tokenizer that is named in params. `mixing`: of documents, with those of
    each part. Raises DataError for an empty corpus.
    """
    first = next(assignment.rows_of("corpus"), None)
    if first is None:
        raise DataError(
            "no row is left for the corpus", "lower prepare.test_share, raise prepare.corpus_share, or add rows"
        )
    out.corpus.mkdir(parents=True)
    if "image" in first:
        out.inputs.mkdir(parents=True)
        size, channels = params.image.size, params.image.channels
        rows_of, count = assignment.rows_of("corpus"), len(assignment.corpus)
        images.write(out.corpus, rows_of, count, size=size, channels=channels).save_pretrained(out.inputs)
        return {"images": count}
    if "x" in first:
        out.inputs.mkdir(parents=True)
        np.save(out.corpus / "x.npy", np.array([row["x"] for row in assignment.rows_of("corpus")], dtype=np.float64))
        arrays.Columns(**names).save_pretrained(out.inputs)
        return {"columns": len(first["x"])}
    train = params.tokenizer in tokenizer.KINDS
    folder = _train_tokenizer(out.checkpoints, params, assignment) if train else resolve_input(params.tokenizer)
    loaded = tokenizer.pretrained(folder, params.max_length)
    loaded.save_pretrained(out.inputs)
    shards = out.checkpoints / "corpus"
    tokens = Shards(shards, loaded, out.storage).write(assignment.documents())
    for path in sorted(shards.iterdir()):
        _link(path, out.corpus / path.name)
    if mixing.given:
        found = assignment.documents_by_source()
        sizes = found | {name: 0 for name in mixing.given if name not in found}
        weights = mixing.weights(sizes)
        write_parts(out.corpus, {name: Part(size, weights[name]) for name, size in sizes.items()})
    return {"tokens": tokens, "vocabulary": len(loaded)}


def _train_tokenizer(checkpoints: Path, params: PrepareParams, assignment: SplitAssignment) -> Path:
    """Train a tokenizer, unless the stage did so before it was stopped; return its folder."""
    folder = checkpoints / "tokenizer"
    if not folder.exists():
        trained = tokenizer.train(
            _sample(assignment),
            params.vocabulary_size,
            params.max_length,
            kind=params.tokenizer,
            lowercase=params.lowercase,
        )
        partial = folder.with_suffix(".partial")
        trained.save_pretrained(partial)
        os.replace(partial, folder)
    return folder


def _sample(assignment: SplitAssignment) -> Iterator[str]:
    """Every n-th document, about SAMPLE characters in all; a share of the corpus has the tokens of the whole one."""
    step = 1 + sum(len(text) for text in assignment.documents("whole")) // SAMPLE
    return (text for number, text in enumerate(assignment.documents("whole")) if number % step == 0)


def _link(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it where links are not possible."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
