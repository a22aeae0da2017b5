"""ingest: make a snapshot of the documents, which DVC then versions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pretune.data import documents, pydocs
from pretune.errors import DataError

if TYPE_CHECKING:
    from pretune.stage import Stage


def ingest(stage: Stage) -> None:
    """Write `data/raw/documents.jsonl`: the distinct documents of `ingest.source`."""
    source = stage.params.ingest.source
    if source == "pydocs":
        found, origin = pydocs.collect(), pydocs.version()
    else:
        found, origin = documents.distinct(documents.read_table(stage.dep(source))), Path(source).name
    if not found:
        raise DataError(f"ingest.source: {source} holds no documents", "add rows, then: pretune run")
    folder = stage.out("data/raw")
    folder.mkdir(parents=True)
    documents.write(folder / "documents.jsonl", found)
    (folder / "source.txt").write_text(origin + "\n", encoding="utf-8")
    labelled = sum(document.label is not None for document in found)
    stage.run.metrics({"documents": len(found), "labelled": labelled, "characters": sum(len(d.text) for d in found)})
