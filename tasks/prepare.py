"""prepare: put every row in its place, learn a tokenizer, tokenize the corpus, describe the data."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from pretune.data import card, labels, prepared, workers
from pretune.data.division import Division
from pretune.data.splits import SIDES

if TYPE_CHECKING:
    from pretune.stage import Stage


def prepare(stage: Stage) -> None:
    """Turn the snapshot into what training reads: labelled rows, a corpus, an input pipeline; and a data card."""
    workers.join()
    params, raw = stage.params.prepare, stage.dep("data/raw")
    about, counts = (json.loads((raw / name).read_text(encoding="utf-8")) for name in ("source.json", "counts.json"))
    division = Division(raw / "rows.parquet", params, stage.params.seed)
    balance = prepared.write_labelled(stage.out("data/prepared/labelled"), division, about["names"], params)
    corpus = prepared.write_corpus(stage, division, about["names"])
    sizes = {part: len(getattr(division, part)) for part in (*SIDES, "corpus")}
    with (raw / "rows.parquet").open("rb") as file:
        md5 = hashlib.file_digest(file, "md5").hexdigest()
    facts = {
        "source": about["source"],
        "licence": about["licence"],
        "md5": md5,
        "raw": counts,
        "splits": {
            part: {"rows": sizes[part], "labels": balance.get(part, {})} | card.facts_of(division.rows_of(part))
            for part in sizes
        },
        "leaks": division.leaks,
        "problems": labels.problems(balance),
        "suspects": labels.suspects(list(division.some("train", labels.MOST))),
        "corpus": corpus,
        "samples": card.samples(division.rows_of("train")),
    }
    stage.run.text("data-card.md", card.write(stage.out("reports/data"), facts))
    stage.run.metrics(
        {name: value for name, value in corpus.items() if isinstance(value, int | float)}
        | {f"{part}_rows": size for part, size in sizes.items()}
        | {"labels": len(balance["train"]), "suspects": len(facts["suspects"])}
        | {f"leaks_{kind}": count for kind, count in division.leaks.items()}
    )
