"""ingest: make a snapshot of the documents, which DVC then versions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pretune.data import pydocs, rows, tables
from pretune.errors import DataError

if TYPE_CHECKING:
    from pretune.stage import Stage


def ingest(stage: Stage) -> None:
    """Write `data/raw/rows.parquet`: the distinct rows of `ingest.source`."""
    source = stage.params.ingest.source
    if source == "pydocs":
        found, origin = pydocs.collect(), pydocs.version()
    else:
        found, origin = tables.distinct(tables.read(stage.dep(source))), Path(source).name
    if not found:
        raise DataError(f"ingest.source: {source} holds no rows", "add rows, then: pretune run")
    folder = stage.out("data/raw")
    folder.mkdir(parents=True)
    rows.write(folder / "rows.parquet", found)
    (folder / "source.txt").write_text(origin + "\n", encoding="utf-8")
    labelled = sum("label" in row for row in found)
    stage.run.metrics({"rows": len(found), "labelled": labelled, "characters": sum(len(row["text"]) for row in found)})
