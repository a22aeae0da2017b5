"""prepare: put every row in its place, learn a tokenizer, tokenize the corpus."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pretune.data import prepared
from pretune.data.division import Division

if TYPE_CHECKING:
    from pretune.stage import Stage


def prepare(stage: Stage) -> None:
    """Turn the snapshot into what training reads: labelled rows, a corpus, an input pipeline."""
    params, raw = stage.params.prepare, stage.dep("data/raw")
    names = json.loads((raw / "source.json").read_text(encoding="utf-8"))["names"]
    division = Division(raw / "rows.parquet", params, stage.params.seed)
    counts = prepared.write_labelled(stage.out("data/prepared/labelled"), division, names, params)
    found = prepared.write_corpus(stage, division, names)
    stage.run.metrics(
        found
        | {f"{part}_rows": len(getattr(division, part)) for part in counts}
        | {"corpus_rows": len(division.corpus), "labels": len(counts["train"])}
        | {f"leaks_{kind}": count for kind, count in division.leaks.items()}
    )
