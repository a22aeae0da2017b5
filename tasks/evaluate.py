"""evaluate: measure the trained model against others and simpler ones on the same rows, with intervals.

The models that are compared are the deps of this stage under models/, except the pretrained one. The first of them is
evaluated: what `promote`, `export`, `predict` and `reproduce` mean by the model of a run.
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
from pretune.errors import ParamsError
from pretune.evaluation import baselines, forgetting, label_efficiency, names, slices, speed
from pretune.evaluation.benchmarks import tasks as benchmarks
from pretune.evaluation.metrics import compute, confidence
from pretune.evaluation.metrics.bootstrap import Bootstrap
from pretune.evaluation.metrics.headline import headline
from pretune.evaluation.report import attribution, curves, mistakes, page, samples
from pretune.models import build
from pretune.objectives import predictions_io
from pretune.objectives.finetuning.labelled import LabelledData
from pretune.objectives.predictions import Classes, Likelihoods, ManyLabels, Predictions
from pretune.objectives.predictions_io import StoredPredictions
from pretune.objectives.requirements import WRITERS
from pretune.predictor.model import Predictor
from pretune.training import device

if TYPE_CHECKING:
    from pretune.runtime.stage import Stage

PARTS = ("answers", "forgetting", "benchmarks", "report", "latency")  # each takes minutes where a large model writes


def evaluate(stage: Stage) -> None:
    """Measure the models and the baselines on the test rows; write `reports/`."""
    params, seed = stage.params.evaluate, stage.params.seed
    benchmarks.check_environment(params.benchmarks)
    device.prepare(seed, stage.params.threads)
    models = _models(stage)
    data = _labelled(stage, stage.dep("data/prepared/labelled"), aligned="aligned" in models)
    test = rows.read(data.folder / "test.parquet")
    predictions = _predictions(stage, data, models)
    trained, own = next(iter(models.values())), next(iter(predictions.values()))

    bootstrap = Bootstrap(len(test), params.bootstrap_samples, params.confidence, seed)
    result = compute.evaluate_models(predictions, bootstrap) | {
        "confidence": params.confidence,
        "train_rows": rows.count_rows(data.folder / "train.parquet"),
    }
    if shares := label_efficiency.read_shares(stage.dep("reports/label_efficiency"), predictions):
        result["label_efficiency"] = label_efficiency.evaluate_shares(shares, bootstrap)
    if (temperature := _temperature(trained)) and isinstance(own, Classes | ManyLabels):
        result["calibration"] = confidence.evaluate_calibration(own, temperature, bootstrap)
    objective = data.objective(build.model_type(trained))
    if objective.taught:
        result["taught"] = {"pretrained": stage.params.pretrain.steps > 0}
    _tell(stage, "forgetting")
    result |= _forgetting(stage, data, trained)
    _tell(stage, "benchmarks")
    benchmarked, benchmark_files = _benchmarks(stage, data, models)
    result |= benchmarked
    _tell(stage, "report")
    by_slice = compute.evaluate_slices(own, slices.slice_masks(test, params.slices), bootstrap)
    tables = curves.tables(own) | label_efficiency.tables(result)
    worst = mistakes.worst_mistakes(own, params.mistakes)
    model = Predictor(str(trained)).answers
    attributions = {
        mistake.row: weights
        for mistake in worst[: params.attributions]
        if (weights := attribution.attribute(model, test[mistake.row]))
    }
    before = predictions.get(names.before(predictions))
    checkpoint = _checkpoint_writer(stage, data, trained, model) if isinstance(own, Likelihoods) else None
    generated = samples.collect(own, model, test, before, checkpoint)
    curve_paths = {PurePosixPath(path).stem: path for path in stage.declared("reports/curves")}
    report = partial(
        page.render_report,
        result,
        rows=test,
        slices=by_slice,
        tables=tables,
        mistakes=worst,
        attributions=attributions,
        samples=generated,
        told=data.told(objective, objective.inputs(trained)),
        training={name: files.read_csv(stage.dep(path)) for name, path in curve_paths.items()},
    )

    texts = {f"{name}.csv": files.as_csv(tables.get(name, [])) for name in curves.TABLES}
    texts |= {"slices.csv": files.as_csv(by_slice), "mistakes.json": as_json(worst)}
    texts |= {"samples.json": as_json(generated)} if generated else {}
    texts |= {f"benchmarks/{name}": content for name, content in benchmark_files.items()}
    stored = StoredPredictions([rows.input_key(row) for row in test], predictions)
    texts["predictions.json"] = predictions_io.dumps(stored)
    _write(stage, texts)
    stage.out("reports/report.html").write_text(report(costs={}), encoding="utf-8")
    stage.out("reports/metrics.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    costs = {name: stage.metrics_of(path, name) for name, path in curve_paths.items()}
    stage.run.text("report.html", report(costs=costs))
    stage.run.metrics(result | headline(result))
    _tell(stage, "latency")
    stage.run.metrics(speed.latency(model, test) | {"model_megabytes": speed.megabytes(trained)})


def _tell(stage: Stage, part: str, of: str = "") -> None:
    stage.progress(PARTS.index(part), len(PARTS), f"{part} of {of}" if of else part)


def _models(stage: Stage) -> dict[str, Path]:
    """{name: folder} of the models that are compared, the evaluated one first; a stage may have left out its own."""
    paths = names.compared(stage.declared("models"), stage.params.model.init)
    folders = {PurePosixPath(path).name: stage.dep(path) for path in paths}
    return {name: folder for name, folder in folders.items() if (folder / build.INFERENCE_CONFIG).is_file()}


def _temperature(model: Path) -> float | None:
    temperature: float | None = build.inference_config(model).get("temperature")
    return temperature


def _predictions(stage: Stage, data: LabelledData, models: dict[str, Path]) -> dict[str, Predictions]:
    """The predictions for the test rows: of trained models, the evaluated one first, of the checkpoint, of baselines.

    Baselines are trained on the same rows, and calibrated where the evaluated model is.
    """
    predictions = {}
    for name, model in models.items():
        _tell(stage, "answers", of=name)
        predictions[name] = data.predictions(model, "test")
    trained, own = next(iter(models.values())), next(iter(predictions.values()))
    predictions |= _checkpoint(stage, data, trained)
    train, test = (rows.read(data.folder / f"{split}.parquet") for split in ("train", "test"))
    validation = rows.read(data.folder / "validation.parquet") if _temperature(trained) else None
    return predictions | baselines.predict(train, test, own, validation=validation)


def _checkpoint(stage: Stage, data: LabelledData, trained: Path) -> dict[str, Predictions]:
    """The answers of `model.init` as it came, to the questions that `trained` was asked; {} if it cannot answer."""
    objective = data.objective(build.model_type(trained))
    source = build.source(stage.params.model, stage.dep) if objective.answers_untrained else None
    if source is None:
        return {}
    _tell(stage, "answers", of="base")
    return {"base": data.predictions(source, "test", like=trained)}


def _checkpoint_writer(stage: Stage, data: LabelledData, trained: Path, model: Any) -> Any:
    """The checkpoint as it came, with the tokenizer and settings of `model`, the predictor of `trained`; or None."""
    source = build.source(stage.params.model, stage.dep)
    if source is None:
        return None
    loaded, _ = build.load(data.objective(build.model_type(trained)), source)
    return type(model)(loaded.eval(), model.tokenizer, model.inference_config)


def _forgetting(stage: Stage, data: LabelledData, trained: Path) -> dict[str, Any]:
    """Bits per byte on held-out texts before training and after; {} for models that do not predict text.

    Before: of the checkpoint as it came, which pretraining may have gone on with; without one, of the pretrained model.
    A warning says what cannot be measured.
    """
    objective = data.objective(build.model_type(trained))
    if not forgetting.applies(objective):
        return {}
    params, inputs = stage.params.pretrain, objective.inputs(trained)
    train = data.rows(objective, "train") if stage.params.finetune.epochs or data.params.epochs else []
    held_out = forgetting.held_out_texts(stage.dep("data/prepared/corpus"), inputs, train, params, stage.params.seed)
    for text in forgetting.unmeasured(held_out, params):
        stage.warn(text)
    if sum(map(len, held_out.values())) < forgetting.FEWEST:
        return {}
    before = build.source(stage.params.model, stage.dep) or stage.dep(names.PRETRAINED)
    return {"forgetting": forgetting.evaluate(before, trained, held_out, stage.params.evaluate, stage.params.seed)}


def _benchmarks(
    stage: Stage, data: LabelledData, models: dict[str, Path]
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The results of `evaluate.benchmarks`, of all models and the checkpoint as it came; {file: samples}."""
    params, trained = stage.params.evaluate, next(iter(models.values()))
    if not params.benchmarks:
        return {}, {}
    objective = data.objective(build.model_type(trained))
    if objective.answers not in WRITERS:
        raise ParamsError("evaluate.benchmarks: the models write no text", "edit params.yaml: benchmarks: []")
    from pretune.evaluation.benchmarks import decoder, harness

    sources: dict[str, Path | str] = dict(models)
    if objective.answers_untrained and (checkpoint := build.source(stage.params.model, stage.dep)):
        sources["base"] = checkpoint
    inputs, chats = objective.inputs(trained), objective.answers == "reply"

    def load(source: Path | str) -> decoder.Decoder:
        return decoder.Decoder(build.load(objective, source)[0].eval(), inputs, chats=chats)

    loaders = {name: partial(load, source) for name, source in sources.items()}
    found, texts, cut = harness.run(
        params.benchmarks, stage.resolve_input, loaders, params, stage.params.seed, chats=chats
    )
    for name, requests in cut.items():
        if requests:
            stage.warn(f"benchmarks: {requests} requests to {name} are longer than it reads: only their ends are read")
    return {"benchmarks": found}, texts


def _labelled(stage: Stage, folder: Path, *, aligned: bool) -> LabelledData:
    """The rows with the objective of the last training stage: all models are asked what the evaluated one learnt."""
    seed = stage.params.seed
    if aligned:
        assert stage.params.align is not None
        return LabelledData(folder, stage.params.align, seed, "align")
    return LabelledData(folder, stage.params.finetune, seed)


def _write(stage: Stage, texts: dict[str, str]) -> None:
    """Leave the files of `reports/evaluation`, in MLflow too."""
    out = stage.out("reports/evaluation")
    out.mkdir(parents=True)
    for name, content in texts.items():
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text(content, encoding="utf-8")
        stage.run.text(f"evaluation/{name}", content)


def as_json(entries: Sequence[Any]) -> str:
    """A list of dataclasses, laid out for people."""
    return json.dumps([asdict(entry) for entry in entries], ensure_ascii=False, indent=1) + "\n"
