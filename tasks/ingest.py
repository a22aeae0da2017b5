"""ingest: write a snapshot of the user's rows, which DVC versions."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pretune.cluster import connection
from pretune.config import source_spec
from pretune.data.ingest import pydocs
from pretune.data.ingest.snapshot import Snapshot, describe_source
from pretune.data.ingest.sources import read

if TYPE_CHECKING:
    from pretune.runtime.stage import Stage

LICENCES = {"pydocs": "PSF-2.0", "digits": "CC BY 4.0"}  # of the built-in sets, where `ingest.licence` is empty


def ingest(stage: Stage) -> None:
    """Write `data/raw`: the rows of `ingest.source`, cleaned and deduplicated, with counts of the rows dropped."""
    connection.connect()
    params = stage.params.ingest
    origin = pydocs.version() if params.source == "pydocs" else describe_source(params.source)
    folder = stage.out("data/raw")
    snapshot = Snapshot(folder, params)
    counts = snapshot.write(read.read(params, stage.resolve_input))
    for warning in counts["warnings"]:
        stage.warn(warning)
    licence = params.licence or LICENCES.get(str(params.source), "unknown")
    about: dict[str, Any] = {"source": origin, "licence": licence, "names": snapshot.names}
    if params.storage:
        about["storage"] = params.storage
    if weights := source_spec.weights(params.source):
        about |= {"weights": weights, "for_pretraining": source_spec.for_pretraining(params.source)}
    if temperature := source_spec.temperature(params.source):
        about["temperature"] = temperature
    (folder / "source.json").write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    stage.run.metrics({name: value for name, value in counts.items() if isinstance(value, int)})
