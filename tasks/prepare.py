"""prepare: learn a tokenizer, tokenize the corpus, split the labelled rows."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pretune.data import corpus, rows, splits, tokenizer

if TYPE_CHECKING:
    from pretune.stage import Stage

MAX_LENGTH = 512  # tokens that a model of this pipeline can read at once


def prepare(stage: Stage) -> None:
    """Turn the snapshot into what training reads: a tokenizer, a corpus, labelled rows."""
    params = stage.params.prepare
    found = rows.read(stage.dep("data/raw") / "rows.parquet")
    parts = splits.split(
        found,
        train_rows=params.train_rows,
        validation_rows=params.validation_rows,
        test_rows=params.test_rows,
        seed=stage.params.seed,
    )
    texts = [row["text"] for row in found]
    trained = tokenizer.train(texts, params.vocabulary_size, MAX_LENGTH)
    trained.save_pretrained(stage.out("data/prepared/tokenizer"))

    tokens = [encoding.ids for encoding in trained.backend_tokenizer.encode_batch(texts)]
    folder = stage.out("data/prepared/corpus")
    folder.mkdir(parents=True)
    corpus.write(folder, tokens)

    folder = stage.out("data/prepared/labelled")
    folder.mkdir(parents=True)
    for name in ("train", "validation", "test"):
        rows.write(folder / f"{name}.parquet", getattr(parts, name))
    (folder / "labels.json").write_text(json.dumps(parts.labels, indent=1) + "\n", encoding="utf-8")
    stage.run.metrics(
        {
            "rows": len(found),
            "tokens": sum(map(len, tokens)),
            "train_rows": len(parts.train),
            "validation_rows": len(parts.validation),
            "test_rows": len(parts.test),
            "labels": len(parts.labels),
        }
    )
