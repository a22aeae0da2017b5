"""ingest: make a snapshot of the rows that the user points at, which DVC then versions."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pretune.data import pydocs, workers
from pretune.data.declared import declared
from pretune.data.snapshot import Snapshot, shown
from pretune.data.sources import read

if TYPE_CHECKING:
    from pretune.stage import Stage


def ingest(stage: Stage) -> None:
    """Write `data/raw`: the rows of `ingest.source`, cleaned, each once, and what was left out and why."""
    workers.join()
    params = stage.params.ingest
    origin = pydocs.version() if params.source == "pydocs" else shown(params.source)
    folder = stage.out("data/raw")
    snapshot = Snapshot(folder, params)
    counts = snapshot.write(read.read(params, lambda place: declared(stage.dep, place)))
    about = {"source": origin, "licence": params.licence, "names": snapshot.names}
    (folder / "source.json").write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    stage.run.metrics({name: value for name, value in counts.items() if isinstance(value, int)})
