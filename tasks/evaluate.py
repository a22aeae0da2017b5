"""evaluate: measure the finetuned model against the same one from scratch and simpler ones, with intervals."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from pretune.data import rows
from pretune.data.rows import Row
from pretune.evaluation import attribution, baselines, curves, inputs, metrics, mistakes, page, speed, stored
from pretune.evaluation.attribution import Piece
from pretune.evaluation.intervals import Bootstrap
from pretune.objectives import labelled
from pretune.objectives.predictions import Predictions
from pretune.predictor.model import Predictor
from pretune.training import device

if TYPE_CHECKING:
    from pretune.stage import Stage

MODELS = ("finetuned", "scratch")
CURVES = ("pretrain", "finetune", "scratch")


def evaluate(stage: Stage) -> None:
    """Measure both models and the baselines on the test rows; write `reports/`."""
    device.prepare(stage.params.seed, stage.params.threads)
    folder = stage.dep("data/prepared/labelled")
    train, test = (rows.read(folder / f"{part}.parquet") for part in ("train", "test"))
    said: dict[str, Predictions] = {
        name: labelled.predictions(stage, stage.dep(f"models/{name}"), "test") for name in MODELS
    }
    said |= baselines.baselines(train, test, said["finetuned"])

    params = stage.params.evaluate
    bootstrap = Bootstrap(len(test), params.resamples, params.confidence, stage.params.seed)
    result = metrics.measured(said, bootstrap) | {"confidence": params.confidence, "train_rows": len(train)}
    slices = metrics.sliced(said["finetuned"], inputs.slices(test, params.slices), bootstrap)
    tables = curves.tables(said["finetuned"])
    worst = mistakes.worst(said["finetuned"], params.mistakes)
    model = Predictor(str(stage.dep("models/finetuned"))).answers
    report = page.render(
        result,
        rows=test,
        slices=slices,
        tables=tables,
        mistakes=worst,
        pieces=pieces(model, test, [each.row for each in worst[: params.attributions]]),
        training={name: stored.read_csv(stage.dep(f"reports/curves/{name}.csv")) for name in CURVES},
    )

    kept = stored.dumps(stored.Stored([inputs.key(row) for row in test], said))
    texts = {f"{name}.csv": stored.as_csv(tables.get(name, [])) for name in curves.TABLES}
    texts["slices.csv"] = stored.as_csv(slices)
    texts["mistakes.json"] = json.dumps([asdict(each) for each in worst], ensure_ascii=False, indent=1) + "\n"
    written = stage.out("reports/evaluation")
    written.mkdir(parents=True)
    for name, content in (texts | {"predictions.json": kept}).items():
        (written / name).write_text(content, encoding="utf-8")
        stage.run.text(f"evaluation/{name}", content)
    stage.out("reports/report.html").write_text(report, encoding="utf-8")
    stage.out("reports/metrics.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    stage.run.text("report.html", report)
    stage.run.metrics(result)
    stage.run.metrics(speed.measured(model, test) | {"model_megabytes": speed.megabytes(stage.dep("models/finetuned"))})


def pieces(model: object, test: list[Row], places: list[int]) -> dict[int, list[Piece]]:
    """What in the texts of these rows spoke for the answer, where one text is told apart from others."""
    if not attribution.explains(model):
        return {}
    return {place: attribution.pieces(model, test[place]["text"]) for place in places if "pair" not in test[place]}
