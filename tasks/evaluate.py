"""evaluate: measure the trained model against others and simpler ones on the same rows, with intervals.

The models that are compared are the deps of this stage under models/. The first of them is the one that is evaluated:
what `promote`, `export`, `predict` and `reproduce` mean by the model of a run.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from pretune.config import files
from pretune.data import rows
from pretune.data.rows import Row
from pretune.evaluation import baselines, label_efficiency, slices, speed
from pretune.evaluation.metrics import compute, confidence
from pretune.evaluation.metrics.bootstrap import Bootstrap
from pretune.evaluation.metrics.headline import headline
from pretune.evaluation.report import attribution, curves, mistakes, page, samples
from pretune.models import build
from pretune.objectives import predictions_io
from pretune.objectives.finetuning.labelled import LabelledData
from pretune.objectives.predictions import Classes, ManyLabels, Predictions
from pretune.objectives.predictions_io import StoredPredictions
from pretune.predictor.model import Predictor
from pretune.training import device

if TYPE_CHECKING:
    from pretune.runtime.stage import Stage

CURVES = ("pretrain", "finetune", "scratch")


def evaluate(stage: Stage) -> None:
    """Measure the models and the baselines on the test rows; write `reports/`."""
    params, seed = stage.params.evaluate, stage.params.seed
    device.prepare(seed, stage.params.threads)
    folder, models = stage.dep("data/prepared/labelled"), _models(stage)
    test = rows.read(folder / "test.parquet")
    data = LabelledData(folder, stage.params.finetune, seed)
    predictions = {name: data.predictions(model, "test") for name, model in models.items()}
    shares = label_efficiency.read_shares(stage.dep("reports/label_efficiency"), predictions)
    trained, own = next(iter(models.values())), next(iter(predictions.values()))
    predictions |= _checkpoint(stage, data, trained)
    temperature = build.inference_config(trained).get("temperature")
    predictions |= _baselines(folder, test, own, calibrated=bool(temperature))

    bootstrap = Bootstrap(len(test), params.bootstrap_samples, params.confidence, seed)
    result = compute.evaluate_models(predictions, bootstrap) | {
        "confidence": params.confidence,
        "train_rows": rows.count_rows(folder / "train.parquet"),
    }
    if shares:
        result["label_efficiency"] = label_efficiency.evaluate_shares(shares, bootstrap)
    if temperature and isinstance(own, Classes | ManyLabels):
        result["calibration"] = confidence.evaluate_calibration(own, temperature, bootstrap)
    by_slice = compute.evaluate_slices(own, slices.slice_masks(test, params.slices), bootstrap)
    tables = curves.tables(own) | label_efficiency.tables(result)
    worst = mistakes.worst_mistakes(own, params.mistakes)
    model = Predictor(str(trained)).answers
    attributions = {
        mistake.row: weights
        for mistake in worst[: params.attributions]
        if (weights := attribution.attribute(model, test[mistake.row]))
    }
    generated = samples.collect(own, model, test)
    curve_paths = {name: f"reports/curves/{name}.csv" for name in CURVES}
    report = partial(
        page.render_report,
        result,
        rows=test,
        slices=by_slice,
        tables=tables,
        mistakes=worst,
        attributions=attributions,
        samples=generated,
        training={name: files.read_csv(stage.dep(path)) for name, path in curve_paths.items()},
    )

    texts = {f"{name}.csv": files.as_csv(tables.get(name, [])) for name in curves.TABLES}
    texts |= {"slices.csv": files.as_csv(by_slice), "mistakes.json": as_json(worst)}
    texts |= {"samples.json": as_json(generated)} if generated else {}
    stored = StoredPredictions([rows.input_key(row) for row in test], predictions)
    texts["predictions.json"] = predictions_io.dumps(stored)
    _write(stage, texts)
    stage.out("reports/report.html").write_text(report(costs={}), encoding="utf-8")
    stage.out("reports/metrics.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    costs = {name: stage.metrics_of(path, name) for name, path in curve_paths.items()}
    stage.run.text("report.html", report(costs=costs))
    stage.run.metrics(result | headline(result))
    stage.run.metrics(speed.latency(model, test) | {"model_megabytes": speed.megabytes(trained)})


def _models(stage: Stage) -> dict[str, Path]:
    """{name: folder} of the models that are compared, the evaluated one first; a stage may have left out its own."""
    paths = [path for path in stage.declared("models") if path != stage.params.model.init]
    folders = {PurePosixPath(path).name: stage.dep(path) for path in paths}
    return {name: folder for name, folder in folders.items() if (folder / build.INFERENCE_CONFIG).is_file()}


def _checkpoint(stage: Stage, data: LabelledData, trained: Path) -> dict[str, Predictions]:
    """The answers of `model.init` as it came, to the questions that `trained` was asked; {} if it cannot answer."""
    objective = data.objective(build.model_type(trained))
    source = build.source(stage.params.model, stage.dep) if objective.answers_untrained else None
    return {} if source is None else {"base": data.predictions(source, "test", like=trained)}


def _baselines(folder: Path, test: list[Row], own: Predictions, *, calibrated: bool) -> dict[str, Predictions]:
    """The predictions of simpler models, trained on the same rows and calibrated where the model is."""
    validation = rows.read(folder / "validation.parquet") if calibrated else None
    return baselines.predict(rows.read(folder / "train.parquet"), test, own, validation=validation)


def _write(stage: Stage, texts: dict[str, str]) -> None:
    """Leave the files of `reports/evaluation`, in MLflow too."""
    out = stage.out("reports/evaluation")
    out.mkdir(parents=True)
    for name, content in texts.items():
        (out / name).write_text(content, encoding="utf-8")
        stage.run.text(f"evaluation/{name}", content)


def as_json(entries: Sequence[Any]) -> str:
    """A list of dataclasses, laid out for people."""
    return json.dumps([asdict(entry) for entry in entries], ensure_ascii=False, indent=1) + "\n"
