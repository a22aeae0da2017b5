"""`python -m pretune.studies.held_out ROOT SPLIT FILE`: the finetuned model's predictions for validation or test rows.

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
from pretune.training import device

MODEL, DATA = "models/finetuned", "data/prepared/labelled"


def main(arguments: list[str]) -> int:
    """Write the predictions of ROOT's finetuned model for the rows of SPLIT to FILE."""
    root, split, file = Path(arguments[0]), arguments[1], Path(arguments[2])
    settings = params.load(root / "params.yaml")
    device.prepare(settings.seed, settings.threads)
    folder = root / DATA
    predicted = LabelledData(folder, settings.finetune, settings.seed).predictions(root / MODEL, split)
    keys = [rows.input_key(row) for row in rows.iterate(folder / f"{split}.parquet")]
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, predictions_io.dumps(StoredPredictions(keys, {"finetuned": predicted})))
    return 0


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main(sys.argv[1:]))
