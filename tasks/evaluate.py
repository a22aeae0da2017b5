"""evaluate: measure the finetuned model against the same one from scratch and simpler ones, with intervals."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from pretune.data import rows, tokenizer
from pretune.data.rows import Row
from pretune.evaluation import baselines, curves, inputs, metrics, mistakes, page, stored
from pretune.evaluation.attribution import Piece
from pretune.evaluation.intervals import Bootstrap
from pretune.models import build
from pretune.objectives import classification
from pretune.objectives.predictions import Classes, Predictions
from pretune.training import device

if TYPE_CHECKING:
    from pretune.stage import Stage

MODELS = ("finetuned", "scratch")
CURVES = ("pretrain", "finetune", "scratch")


def evaluate(stage: Stage) -> None:
    """Measure both models and the baselines on the test rows; write `reports/`."""
    device.prepare(stage.params.seed, stage.params.threads)
    labelled = stage.dep("data/prepared/labelled")
    train, test = (rows.read(labelled / f"{part}.parquet") for part in ("train", "test"))
    said: dict[str, Predictions] = {name: predictions(stage, name, test) for name in MODELS}
    said |= baselines.baselines(train, test, said["finetuned"])

    params = stage.params.evaluate
    bootstrap = Bootstrap(len(test), params.resamples, params.confidence, stage.params.seed)
    result = metrics.measured(said, bootstrap) | {"confidence": params.confidence, "train_rows": len(train)}
    slices = metrics.sliced(said["finetuned"], inputs.slices(test, params.slices), bootstrap)
    tables = curves.tables(said["finetuned"])
    worst = mistakes.worst(said["finetuned"], params.mistakes)
    report = page.render(
        result,
        rows=test,
        slices=slices,
        tables=tables,
        mistakes=worst,
        pieces=pieces(stage, test, [each.row for each in worst[: params.attributions]]),
        training={name: stored.read_csv(stage.dep(f"reports/curves/{name}.csv")) for name in CURVES},
    )

    folder = stage.out("reports/evaluation")
    folder.mkdir(parents=True)
    kept = stored.dumps(stored.Stored([inputs.key(row) for row in test], said))
    texts = {name + ".csv": stored.as_csv(table) for name, table in (tables | {"slices": slices}).items() if table}
    texts |= {"mistakes.json": json.dumps([asdict(each) for each in worst], ensure_ascii=False, indent=1) + "\n"}
    for name, content in (texts | {"predictions.json": kept}).items():
        (folder / name).write_text(content, encoding="utf-8")
        stage.run.text(f"evaluation/{name}", content)
    stage.out("reports/report.html").write_text(report, encoding="utf-8")
    stage.out("reports/metrics.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    stage.run.text("report.html", report)
    stage.run.metrics(result)


def predictions(stage: Stage, name: str, test: list[Row]) -> Classes:
    """What a model says about the test rows."""
    folder = stage.dep(f"models/{name}")
    labels = json.loads((stage.dep("data/prepared/labelled") / "labels.json").read_text(encoding="utf-8"))
    probabilities = classification.probabilities(
        build.load_classifier(folder),
        tokenizer.load(folder),
        [row["text"] for row in test],
        stage.params.finetune.sequence_length,
    )
    return Classes(labels, np.array([labels.index(row["label"]) for row in test]), probabilities)


def pieces(stage: Stage, test: list[Row], places: list[int]) -> dict[int, list[Piece]]:
    """What in the texts of these rows spoke for the answer; of classifiers of single texts only."""
    return {}
