"""evaluate: measure the finetuned model against the same one from scratch and simpler ones, with intervals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from pretune.data import rows
from pretune.evaluation import (
    attribution,
    baselines,
    confidence,
    curves,
    inputs,
    label_efficiency,
    metrics,
    mistakes,
    page,
    samples,
    speed,
    stored,
)
from pretune.evaluation.intervals import Bootstrap
from pretune.models import build
from pretune.objectives import labelled
from pretune.objectives.predictions import Classes, ManyLabels, Predictions
from pretune.predictor.model import Predictor
from pretune.training import device

if TYPE_CHECKING:
    from pretune.stage import Stage

CURVES = ("pretrain", "finetune", "scratch")


def evaluate(stage: Stage) -> None:
    """Measure both models and the baselines on the test rows; write `reports/`."""
    device.prepare(stage.params.seed, stage.params.threads)
    folder = stage.dep("data/prepared/labelled")
    train, test = (rows.read(folder / f"{part}.parquet") for part in ("train", "test"))
    said: dict[str, Predictions] = {
        name: labelled.predictions(stage, stage.dep(f"models/{name}"), "test") for name in label_efficiency.MODELS
    }
    fewer = label_efficiency.read(stage.dep("reports/label_efficiency"), said)
    temperature = build.facts(stage.dep("models/finetuned")).get("temperature")
    validation = rows.read(folder / "validation.parquet") if temperature else None
    said |= baselines.baselines(train, test, said["finetuned"], validation=validation)

    params = stage.params.evaluate
    bootstrap = Bootstrap(len(test), params.resamples, params.confidence, stage.params.seed)
    result = metrics.measured(said, bootstrap) | {"confidence": params.confidence, "train_rows": len(train)}
    if fewer:
        result["label_efficiency"] = label_efficiency.measured(fewer, bootstrap)
    if temperature and isinstance(said["finetuned"], Classes | ManyLabels):
        result["calibration"] = confidence.measured(said["finetuned"], temperature, bootstrap)
    slices = metrics.sliced(said["finetuned"], inputs.slices(test, params.slices), bootstrap)
    tables = curves.tables(said["finetuned"]) | label_efficiency.tables(result)
    worst = mistakes.worst(said["finetuned"], params.mistakes)
    model = Predictor(str(stage.dep("models/finetuned"))).answers
    explained = {each.row: attribution.explained(model, test[each.row]) for each in worst[: params.attributions]}
    shown = samples.samples(said["finetuned"], model, test)
    paths = {name: f"reports/curves/{name}.csv" for name in CURVES}
    report = partial(
        page.render,
        result,
        rows=test,
        slices=slices,
        tables=tables,
        mistakes=worst,
        explained={row: each for row, each in explained.items() if each},
        samples=shown,
        training={name: stored.read_csv(stage.dep(path)) for name, path in paths.items()},
    )

    texts = {f"{name}.csv": stored.as_csv(tables.get(name, [])) for name in curves.TABLES}
    texts |= {"slices.csv": stored.as_csv(slices), "mistakes.json": as_json(worst)}
    texts |= {"samples.json": as_json(shown)} if shown else {}
    texts["predictions.json"] = stored.dumps(stored.Stored([inputs.key(row) for row in test], said))
    _write(stage, texts)
    stage.out("reports/report.html").write_text(report(took={}), encoding="utf-8")
    stage.out("reports/metrics.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    stage.run.text("report.html", report(took={name: stage.took(path, name) for name, path in paths.items()}))
    stage.run.metrics(result)
    stage.run.metrics(speed.measured(model, test) | {"model_megabytes": speed.megabytes(stage.dep("models/finetuned"))})


def _write(stage: Stage, texts: dict[str, str]) -> None:
    """Leave the files of `reports/evaluation`, in MLflow too."""
    out = stage.out("reports/evaluation")
    out.mkdir(parents=True)
    for name, content in texts.items():
        (out / name).write_text(content, encoding="utf-8")
        stage.run.text(f"evaluation/{name}", content)


def as_json(found: Sequence[Any]) -> str:
    """A list of dataclasses, to be read by people too."""
    return json.dumps([asdict(each) for each in found], ensure_ascii=False, indent=1) + "\n"
