"""What `prepare` leaves: labelled rows, the corpus in the form of its kind, and the model's input pipeline."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pretune.data import arrays, pixels, rows, splits, tokenizer
from pretune.data.declared import declared
from pretune.data.division import Division
from pretune.data.rows import Row
from pretune.data.shards import Shards
from pretune.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from pretune.data.settings import PrepareParams
    from pretune.stage import Stage

SAMPLE = 50_000_000  # characters that a tokenizer is learnt from, spread over all documents


def write_labelled(
    folder: Path, division: Division, names: dict[str, list[str]], params: PrepareParams
) -> dict[str, Any]:
    """Write train, validation and test rows and `labels.json`; return how many rows of each label each has.

    The labels are those of the training rows, in the order of their numbers; for numbers to predict
    the names of `y`; none for anything else.
    """
    folder.mkdir(parents=True)
    counts: dict[str, dict[str, int]] = {}
    for part in splits.SIDES:
        balance: dict[str, int] = {}
        rows.write(folder / f"{part}.parquet", _counted(division.rows_of(part), balance))
        counts[part] = dict(sorted(balance.items()))
    _check(counts, division, params)
    labels = names.get("y", splits.ordered(counts["train"]))
    (folder / "labels.json").write_text(json.dumps(labels, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return counts


def _check(counts: dict[str, dict[str, int]], division: Division, params: PrepareParams) -> None:
    """Raise DataError where a split is empty, or there is a label too few."""
    problems = []
    for part in splits.SIDES:
        wanted = getattr(params, f"{part}_rows")
        if wanted != 0 and not len(getattr(division, part)) and (part != "validation" or wanted):
            problems.append(f"no row is left for {part}; prepare.{part}_rows is {'null' if wanted is None else wanted}")
    unseen = sorted({name for part in counts.values() for name in part} - set(counts["train"]))
    if unseen and len(division.train):
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


def write_corpus(stage: Stage, division: Division, names: dict[str, list[str]]) -> dict[str, Any]:
    """Write the corpus and the input pipeline in the form that the columns of the data ask for."""
    params: PrepareParams = stage.params.prepare
    corpus, inputs = stage.out("data/prepared/corpus"), stage.out("data/prepared/tokenizer")
    first = next(division.rows_of("corpus"), None)
    if first is None:
        raise DataError("no row is left for the corpus", "lower prepare.test_share, or add rows")
    corpus.mkdir(parents=True)
    if "image" in first:
        inputs.mkdir(parents=True)
        size, channels = params.image.size, params.image.channels
        found = pixels.write(corpus, division.rows_of("corpus"), len(division.corpus), size=size, channels=channels)
        found.save_pretrained(inputs)
        return {"images": len(division.corpus)}
    if "x" in first:
        inputs.mkdir(parents=True)
        np.save(corpus / "x.npy", np.array([row["x"] for row in division.rows_of("corpus")], dtype=np.float64))
        arrays.Columns(**names).save_pretrained(inputs)
        return {"columns": len(first["x"])}
    words = _tokenizer(stage, params, division)
    words.save_pretrained(inputs)
    shards = stage.checkpoints / "corpus"
    tokens = Shards(shards, words).write(division.documents())
    for path in sorted(shards.iterdir()):
        _link(path, corpus / path.name)
    return {"tokens": tokens, "vocabulary": len(words)}


def _tokenizer(stage: Stage, params: PrepareParams, division: Division) -> PreTrainedTokenizerFast:
    """The tokenizer that is named; learnt ones are kept until the stage ends, to go on with after a stop."""
    if params.tokenizer not in tokenizer.KINDS:
        return tokenizer.pretrained(declared(stage.dep, params.tokenizer), params.max_length)
    kept = stage.checkpoints / "tokenizer"
    if not kept.exists():
        words = tokenizer.train(
            _sample(division),
            params.vocabulary_size,
            params.max_length,
            kind=params.tokenizer,
            lowercase=params.lowercase,
        )
        partial = kept.with_suffix(".partial")
        words.save_pretrained(partial)
        os.replace(partial, kept)
    return tokenizer.pretrained(kept, params.max_length)


def _sample(division: Division) -> Iterator[str]:
    """Every n-th document, so that they have about SAMPLE characters."""
    every = 1 + sum(len(text) for text in division.documents()) // SAMPLE
    return (text for number, text in enumerate(division.documents()) if number % every == 0)


def _link(source: Path, target: Path) -> None:
    """The same file under another name, or a copy where links are not to be had."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
