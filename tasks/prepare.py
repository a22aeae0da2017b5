"""prepare: split the rows, train a tokenizer, tokenize the corpus, describe the data."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

from pretune.cluster import connection
from pretune.data import rows
from pretune.data.prepare import card, labels, write
from pretune.data.prepare.mixing import Mixing
from pretune.data.prepare.split_assignment import SplitAssignment
from pretune.data.prepare.splits import SPLITS

if TYPE_CHECKING:
    from pretune.runtime.stage import Stage


def prepare(stage: Stage) -> None:
    """Turn the snapshot into labelled rows, a tokenizer and a tokenized corpus for training, and write a data card."""
    connection.connect()
    params, raw = stage.params.prepare, stage.dep("data/raw")
    about, counts = (json.loads((raw / name).read_text(encoding="utf-8")) for name in ("source.json", "counts.json"))
    assignment = SplitAssignment(raw / "rows.parquet", params, stage.params.seed)
    labelled = stage.out("data/prepared/labelled")
    balance = write.write_labelled(labelled, assignment, about["names"], params)
    out = write.CorpusOutputs(
        stage.out("data/prepared/corpus"),
        stage.out("data/prepared/tokenizer"),
        stage.checkpoints,
        about.get("storage", ""),
    )
    mixing = Mixing.of(about)
    tuned = mixing.only(mixing.given.keys() - about.get("for_pretraining", []))
    parts = Counter(row["part"] for row in assignment.rows_of("train")) if tuned.temperature else {}
    write.write_weights(labelled, tuned.weights(parts))
    corpus = write.write_corpus(out, assignment, about["names"], params, stage.resolve_input, mixing=mixing)
    if params.corpus_share < 1:
        corpus["rows_left_out"] = len(assignment.whole) - len(assignment.corpus)
    sizes = {part: len(getattr(assignment, part)) for part in (*SPLITS, "corpus")}
    facts = {
        "source": about["source"],
        "licence": about["licence"],
        "md5": rows.digest(raw / "rows.parquet"),
        "raw": counts,
        "splits": {
            part: {"rows": sizes[part], "labels": balance.get(part, {})} | card.facts_of(assignment.rows_of(part))
            for part in sizes
        },
        "leaks": assignment.leaks,
        "problems": labels.problems(balance),
        "suspects": labels.suspects(list(assignment.sample("train", labels.MAX_ROWS))),
        "corpus": corpus,
        "samples": card.samples(assignment.rows_of("train")),
    }
    stage.run.text("data-card.md", card.write(stage.out("reports/data"), facts))
    stage.run.metrics(
        {name: value for name, value in corpus.items() if isinstance(value, int | float)}
        | {f"{part}_rows": size for part, size in sizes.items()}
        | {"labels": len(balance["train"]), "suspects": len(facts["suspects"])}
        | {f"leaks_{kind}": count for kind, count in assignment.leaks.items()}
    )
