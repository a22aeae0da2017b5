"""evaluate: say whether the finetuned model beats the same one from scratch, by how much, how surely."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pretune.data import rows
from pretune.evaluation import metrics
from pretune.objectives import labelled
from pretune.objectives.predictions import Classes
from pretune.training import device

if TYPE_CHECKING:
    from pretune.evaluation.metrics import Labels
    from pretune.stage import Stage


def evaluate(stage: Stage) -> None:
    """Score both models and the majority baseline on the test rows; write `reports/`."""
    device.prepare(stage.params.seed, stage.params.threads)
    folder = stage.dep("data/prepared/labelled")
    found = {
        name: labelled.predictions(stage, stage.dep(f"models/{name}"), "test") for name in ("finetuned", "scratch")
    }
    classes = {name: each for name, each in found.items() if isinstance(each, Classes)}
    predicted: dict[str, Labels] = {name: each.probabilities.argmax(axis=1) for name, each in classes.items()}
    labels, targets = classes["scratch"].names, classes["scratch"].targets
    train, test = (rows.read(folder / f"{part}.parquet") for part in ("train", "test"))
    known = np.array([labels.index(row["label"]) for row in train])
    predicted["majority"] = metrics.majority(known, len(test))

    params = stage.params.evaluate
    bootstrap = metrics.Bootstrap(len(test), params.resamples, params.confidence, stage.params.seed)
    result = {
        "test_rows": len(test),
        "train_rows": len(train),
        "confidence": params.confidence,
        **{name: metrics.score(targets, answer, bootstrap) for name, answer in predicted.items()},
        "gain": metrics.gain(targets, predicted["finetuned"], predicted["scratch"], bootstrap),
    }
    stage.out("reports/metrics.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    write_predictions(stage.out("reports/predictions.csv"), labels, targets, predicted)
    stage.run.metrics(result)


def write_predictions(path: Path, labels: list[str], targets: Labels, predicted: dict[str, Labels]) -> None:
    """One line per test row: its label and what each model says (DVC plots a confusion matrix of it)."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["label", *predicted])
        for row in zip(targets, *predicted.values(), strict=True):
            table.writerow([labels[index] for index in row])
