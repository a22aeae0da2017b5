"""What `prepare` leaves: labelled rows, the corpus in the form of its kind, and the model's input pipeline."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pretune.data import rows, tokenizer
from pretune.data.loading import arrays
from pretune.data.prepare import images, splits
from pretune.data.prepare.shards import Shards
from pretune.data.prepare.split_assignment import SplitAssignment
from pretune.data.rows import Row
from pretune.errors import DataError

if TYPE_CHECKING:
    from pretune.config.data import PrepareParams

SAMPLE = 50_000_000  # characters that a tokenizer is learnt from, spread over all documents


def write_labelled(
    folder: Path, assignment: SplitAssignment, names: dict[str, list[str]], params: PrepareParams
) -> dict[str, Any]:
    """Write train, validation and test rows and `labels.json`; return how many rows of each label each has.

    The labels are those of the training rows, in the order of their numbers; for numbers to predict
    the names of `y`; none for anything else.
    """
    folder.mkdir(parents=True)
    counts: dict[str, dict[str, int]] = {}
    for part in splits.SIDES:
        balance: dict[str, int] = {}
        rows.write(folder / f"{part}.parquet", _counted(assignment.rows_of(part), balance))
        counts[part] = dict(sorted(balance.items()))
    _check(counts, assignment, params)
    labels = names.get("y", splits.ordered(counts["train"]))
    (folder / "labels.json").write_text(json.dumps(labels, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return counts


def _check(counts: dict[str, dict[str, int]], assignment: SplitAssignment, params: PrepareParams) -> None:
    """Raise DataError where a split is empty, or there is a label too few."""
    problems = []
    for part in splits.SIDES:
        wanted = getattr(params, f"{part}_rows")
        if wanted != 0 and not len(getattr(assignment, part)) and (part != "validation" or wanted):
            problems.append(f"no row is left for {part}; prepare.{part}_rows is {'null' if wanted is None else wanted}")
    unseen = sorted({name for part in counts.values() for name in part} - set(counts["train"]))
    if unseen and len(assignment.train):
        problems.append(f"no training row has the label {', '.join(unseen)}, which test or validation rows have")
    if len(counts["train"]) == 1:
        problems.append(f"the training rows have one label only ({next(iter(counts['train']))}): nothing to learn")
    if problems:
        raise DataError(
            problems, "change prepare.test_share, prepare.train_rows or the seed in params.yaml, or add rows"
        )


def _counted(found: Iterator[Row], balance: dict[str, int]) -> Iterator[Row]:
    for row in found:
        for name in splits.labels_of(row):
            balance[name] = balance.get(name, 0) + 1
        yield row


@dataclass(frozen=True)
class CorpusOutputs:
    """Folders of the corpus, of the input pipeline, and of what is kept to resume after a stop."""

    corpus: Path
    inputs: Path
    kept: Path


def write_corpus(
    out: CorpusOutputs,
    assignment: SplitAssignment,
    names: dict[str, list[str]],
    params: PrepareParams,
    resolve_input: Callable[[str], Path],
) -> dict[str, Any]:
    """Write the corpus and the input pipeline in the form that the columns of the data require; return its size.

    `resolve_input` finds the folder of a tokenizer that params name.
    """
    first = next(assignment.rows_of("corpus"), None)
    if first is None:
        raise DataError("no row is left for the corpus", "lower prepare.test_share, or add rows")
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
    learnt = params.tokenizer in tokenizer.KINDS
    folder = _learn_tokenizer(out.kept, params, assignment) if learnt else resolve_input(params.tokenizer)
    words = tokenizer.pretrained(folder, params.max_length)
    words.save_pretrained(out.inputs)
    shards = out.kept / "corpus"
    tokens = Shards(shards, words).write(assignment.documents())
    for path in sorted(shards.iterdir()):
        _link(path, out.corpus / path.name)
    return {"tokens": tokens, "vocabulary": len(words)}


def _learn_tokenizer(folder: Path, params: PrepareParams, assignment: SplitAssignment) -> Path:
    """Learn a tokenizer, unless that was done before a stop; return its folder."""
    kept = folder / "tokenizer"
    if not kept.exists():
        words = tokenizer.train(
            _sample(assignment),
            params.vocabulary_size,
            params.max_length,
            kind=params.tokenizer,
            lowercase=params.lowercase,
        )
        partial = kept.with_suffix(".partial")
        words.save_pretrained(partial)
        os.replace(partial, kept)
    return kept


def _sample(assignment: SplitAssignment) -> Iterator[str]:
    """Every n-th document, so that they have about SAMPLE characters."""
    every = 1 + sum(len(text) for text in assignment.documents()) // SAMPLE
    return (text for number, text in enumerate(assignment.documents()) if number % every == 0)


def _link(source: Path, target: Path) -> None:
    """The same file under another name, or a copy where links are not to be had."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
