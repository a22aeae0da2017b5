"""evaluate: say whether the finetuned model beats the same one from scratch, by how much, how surely."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pretune.data import rows, tokenizer
from pretune.evaluation import metrics
from pretune.models import build
from pretune.objectives import classification
from pretune.training import device

if TYPE_CHECKING:
    from pretune.evaluation.metrics import Labels
    from pretune.stage import Stage


def evaluate(stage: Stage) -> None:
    """Score both models and the majority baseline on the test rows; write `reports/`."""
    device.prepare(stage.params.seed, stage.params.threads)
    labelled = stage.dep("data/prepared/labelled")
    labels: list[str] = json.loads((labelled / "labels.json").read_text(encoding="utf-8"))
    train, test = (rows.read(labelled / f"{part}.parquet") for part in ("train", "test"))
    number = {label: index for index, label in enumerate(labels)}
    known = np.array([number[row["label"]] for row in train])
    targets = np.array([number[row["label"]] for row in test])

    predicted: dict[str, Labels] = {}
    for name in ("finetuned", "scratch"):
        folder = stage.dep(f"models/{name}")
        predicted[name] = classification.probabilities(
            build.load_classifier(folder),
            tokenizer.load(folder),
            [row["text"] for row in test],
            stage.params.finetune.sequence_length,
        ).argmax(axis=1)
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
