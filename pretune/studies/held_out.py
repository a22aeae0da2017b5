"""`python -m pretune.studies.held_out ROOT SPLIT FILE`: what the last model predicts for validation or test rows.

A process of its own, for it needs torch; the fork server of a trial starts it with all that imported.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pretune.config import params
from pretune.config.files import write_atomically
from pretune.data import rows
from pretune.objectives import predictions_io
from pretune.objectives.finetuning.labelled import LabelledData
from pretune.objectives.predictions_io import StoredPredictions
from pretune.release.last_model import last_model
from pretune.training import device

DATA = "data/prepared/labelled"


def main(arguments: list[str]) -> int:
    """Write the predictions of ROOT's last model for the rows of SPLIT to FILE."""
    root, split, file = Path(arguments[0]), arguments[1], Path(arguments[2])
    settings = params.load(root / "params.yaml")
    device.prepare(settings.seed, settings.threads)
    folder, model = root / DATA, last_model(root)
    labelled = LabelledData(folder, model.params(settings), settings.seed, model.section)
    predicted = labelled.predictions(root / model.path, split)
    keys = [rows.input_key(row) for row in rows.iterate(folder / f"{split}.parquet")]
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, predictions_io.dumps(StoredPredictions(keys, {model.stage: predicted})))
    return 0


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main(sys.argv[1:]))
