"""The report of an evaluation: one HTML file that holds all it shows, so that it opens without a network."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pretune.data.rows import Row
from pretune.evaluation import label_efficiency, names
from pretune.evaluation.names import COSTS
from pretune.evaluation.report import charts
from pretune.evaluation.report.attribution import Cells, Piece
from pretune.evaluation.report.curves import Point
from pretune.evaluation.report.mistakes import Mistake
from pretune.evaluation.report.samples import Sample
from pretune.evaluation.slices import input_text
from pretune.pages.render import Table, render
from pretune.pages.units import interval, si

TEMPLATE = Path(__file__).with_name("report.html.j2")
VARYING_COSTS = ("seconds", "device_hours", "energy_kwh", "co2_kg")  # they differ from run to run
TEXT_LENGTH = 400  # characters
MATRIX_SIZE = 30  # classes of a confusion matrix
Curves = Mapping[str, Sequence[Mapping[str, str]]]  # of training, by stage
Figure = dict[str, Any]


def render_report(
    result: Mapping[str, Any],
    *,
    rows: Sequence[Row],
    slices: Sequence[Point],
    tables: Mapping[str, Sequence[Point]],
    mistakes: Sequence[Mistake],
    attributions: Mapping[int, Sequence[Piece] | Cells],
    samples: Sequence[Sample],
    training: Curves,
    costs: Mapping[str, Mapping[str, float]],
    told: tuple[Sequence[str], Mapping[str, Mapping[str, int]]],
) -> str:
    """The page. result: the content of reports/metrics.json; rows: of the test set; attributions: by row.

    told: warnings about the rows that are trained on, and their figures by split (LabelledData.told).

    costs: {stage: metrics of its run}; empty for a page that has to be the same each time.
    """
    headline = next(iter(result[names.evaluated(result)]))
    words = {name: COSTS[name] for name in VARYING_COSTS if any(name in metrics for metrics in costs.values())}
    return render(
        TEMPLATE,
        test_rows=result["test_rows"],
        lead=_lead(result, headline),
        models=_models(result),
        gains=_gains(result, headline),
        calibration=result.get("calibration"),
        calibration_table=_calibration(result.get("calibration", {})),
        forgetting=result.get("forgetting"),
        forgetting_table=_forgetting(result.get("forgetting", {})),
        benchmarks=_benchmarks(result),
        label_efficiency=_label_efficiency(result.get("label_efficiency", {}), headline),
        training_rows=_training_rows(told[1]),
        training_warnings=told[0],
        training_plots=list(_training_plots(training)),
        costs=_costs(training, costs, words),
        costs_vary=bool(words),
        plots=list(_plots(tables)),
        slices=Table("Slices", ["rows with", "number", headline], [[row["slice"], row["rows"], row] for row in slices]),
        samples=_samples(samples),
        before=names.describe(names.before(names.models_of(result))),
        mistakes=[(_input(rows[mistake.row], attributions.get(mistake.row)), mistake) for mistake in mistakes],
        attributed=bool(attributions),
    )


def _training_rows(figures: Mapping[str, Mapping[str, int]]) -> Table:
    """Training and validation rows; figures: {what: {split: count}}."""
    splits = list(dict.fromkeys(split for counts in figures.values() for split in counts))
    body = [[name, *(counts.get(split, "") for split in splits)] for name, counts in figures.items()]
    return Table("Rows that are trained on", ["", *splits], body)


def _samples(samples: Sequence[Sample]) -> Table | None:
    """Texts side by side, with those of the model before its training if it was asked."""
    asked = any(sample.before is not None for sample in samples)
    keys = ["input", "true", *(["before"] if asked else []), "predicted"]
    texts = [[_excerpt(getattr(sample, key) or "") for key in keys] for sample in samples]
    return Table("Samples", keys, texts) if samples else None


def _lead(result: Mapping[str, Any], headline: str) -> str:
    own = result[names.evaluated(result)][headline]
    value = f"{headline} {interval(own['value'], own['low'], own['high'])}, {result['confidence']:.0%} interval."
    return " ".join([value, *(_effect(what, result["gain"][name], name) for name, what in names.brought(result))])


def _effect(what: str, gain: Mapping[str, float], rival: str) -> str:
    """Whether `what`, as pretraining, helped over the model `rival`."""
    effect = "helped significantly" if gain["low"] > 0 else "helped, but not significantly"
    if gain["value"] <= 0:
        effect = "did not help"
    by = interval(gain["value"], gain["low"], gain["high"], sign=True)
    return f"{what.capitalize()} {effect}: {by} over {names.describe(rival)}, on the same rows."


def _models(result: Mapping[str, Any]) -> Table:
    models = names.models_of(result)
    body = [[metric, *(result[name].get(metric, {}) for name in models)] for metric in result[names.evaluated(result)]]
    return Table("Models", ["", *map(names.describe, models)], body)


def _gains(result: Mapping[str, Any], headline: str) -> Table:
    """By how much the evaluated model is better than each other one; of preferences, how often its answer is."""
    gains = {name: result["gain"][name] for name in names.in_order(result["gain"])}
    rates = result.get("win_rate", {})
    head = ["than", f"in {headline}", "p", *(["share of prompts answered better"] if rates else [])]
    body = [
        [names.describe(name), gain, f"{gain['p']:.2g}", *([rates.get(name, {})] if rates else [])]
        for name, gain in gains.items()
    ]
    return Table("Is it better?", head, body)


def _calibration(calibration: Mapping[str, Any]) -> Table:
    after = calibration.get("after", {})
    return Table(
        "Calibration", ["", "before", "after"], [[name, calibration["before"][name], after[name]] for name in after]
    )


def _forgetting(forgetting: Mapping[str, Any]) -> Table:
    """Bits per byte of all held-out texts, and of those of each part of a mixture."""
    columns = {"bits per byte": forgetting} | forgetting.get("parts", {})
    body = [[name, *(column.get(name, {}) for column in columns.values())] for name in ("before", "after", "increase")]
    return Table("Forgetting", ["", *columns], body if forgetting else [])


def _benchmarks(result: Mapping[str, Any]) -> Table:
    """Each model's estimate, and by how much the evaluated one is better than each of the others."""
    measured = result.get("benchmarks", {})
    rivals = names.in_order({name for entry in measured.values() for name in entry["gain"]})
    models = names.in_order([names.evaluated(result), *rivals])
    head = ["", "samples", *map(names.describe, models)]
    head += [text for name in rivals for text in (f"better than {names.describe(name)} by", "p")]
    body = [
        [key, entry["samples"], *(entry.get(name, {}) for name in models)]
        + [cell for name in rivals for cell in (entry["gain"][name], f"{entry['gain'][name]['p']:.2g}")]
        for key, entry in measured.items()
    ]
    return Table("Benchmarks", head, body)


def _label_efficiency(by_share: Mapping[str, Any], headline: str) -> dict[str, Any]:
    if not by_share:
        return {}
    lines = {
        names.describe(name): [(entry["rows"], entry[name]) for entry in by_share.values() if entry.get(name)]
        for name in label_efficiency.MODELS
    }
    estimates = (*label_efficiency.MODELS, *label_efficiency.GAINS)
    body = [
        [
            f"{100 * float(share):.4g} %",
            entry["rows"],
            *([entry["labels"]] if entry["labels"] else []),
            *(entry.get(name, {}) for name in estimates),
        ]
        for share, entry in by_share.items()
    ]
    labels = ["labels among them"] if next(iter(by_share.values()))["labels"] else []
    heads = ["share", "labelled rows", *labels, "finetuned", "from scratch", "gain", "gain over scratch on all"]
    return {
        "sentence": label_efficiency.describe_saving(by_share),
        "plot": _figure(headline, charts.intervals(lines, x="labelled rows", y=headline)),
        "table": Table("Label efficiency", heads, body, text_columns=0),
    }


def _figure(title: str, svg: str, *, any_width: bool = False) -> Figure:
    return {"title": title, "svg": svg, "any_width": any_width}


def _training_plots(training: Curves) -> Iterator[Figure]:
    for stage, curve in training.items():
        series = {name: _column(curve, name) for name in ("loss", "validation_loss")}
        known = {name: points for name, points in series.items() if points}
        rate = {"learning rate": _column(curve, "learning_rate")}
        if known:
            yield _figure(stage, charts.lines(known, x="step", y="loss", right=rate))


def _column(curve: Sequence[Mapping[str, str]], name: str) -> list[tuple[float, float]]:
    return [(float(row["step"]), float(row[name])) for row in curve if row.get(name)]


def _costs(training: Curves, costs: Mapping[str, Mapping[str, float]], words: Mapping[str, str]) -> Table:
    """Steps and FLOPs, and the costs that `words` name."""
    body = []
    for stage, curve in training.items():
        if curve:
            last, metrics = curve[-1], costs.get(stage, {})
            varying = [f"{metrics[name]:.3g}" if name in metrics else "-" for name in words]
            body.append([stage, last["step"], last["loss"], si(float(last["flops"])), *varying])
    return Table("Cost of training", ["stage", "steps", "last loss", COSTS["flops"], *words.values()], body)


def _plots(tables: Mapping[str, Sequence[Point]]) -> Iterator[Figure]:
    if pairs := Counter((str(row["label"]), str(row["predicted"])) for row in tables.get("confusion", ())):
        classes = sorted({name for pair in pairs for name in pair})
        if len(classes) <= MATRIX_SIZE:
            counts = [[pairs[true, predicted] for predicted in classes] for true in classes]
            matrix = charts.confusion_matrix(classes, counts)
            yield _figure("Confusion: rows are true, columns predicted", matrix, any_width=True)
    if roc := tables.get("roc"):
        series = _by_label(roc, "false_positives", "true_positives")
        yield _figure("ROC", charts.lines(series, x="false positives", y="true positives", diagonal=True))
    if curve := tables.get("precision_recall"):
        series = _by_label(curve, "recall", "precision")
        yield _figure("Precision and recall", charts.lines(series, x="recall", y="precision"))
    if reliability := tables.get("reliability"):
        points = {"accuracy": [(float(row["confidence"]), float(row["accuracy"])) for row in reliability]}
        plot = charts.lines(points, x="confidence", y="accuracy", diagonal=True, marks=True)
        yield _figure("Reliability: calibrated on the diagonal", plot)
    if scatter := tables.get("scatter"):
        pairs_ = [(float(row["target"]), float(row["predicted"])) for row in scatter]
        yield _figure("Predicted and true", charts.scatter(pairs_, x="true", y="predicted"))


def _by_label(table: Sequence[Point], x: str, y: str) -> dict[str, list[tuple[float, float]]]:
    series: dict[str, list[tuple[float, float]]] = {}
    for row in table:
        series.setdefault(str(row["label"]), []).append((float(row[x]), float(row[y])))
    return series


def _input(row: Row, attribution: Sequence[Any] | None) -> dict[str, Any]:
    """What the template shows of a row: an image with its attributed copy, the pieces of a text, or a text."""
    if "image" in row:
        url = f"data:image/png;base64,{base64.b64encode(row['image']).decode()}"
        return {"image": url, "attributed": charts.attributed_image(url, attribution) if attribution else ""}
    if attribution:
        return {"pieces": attribution}
    return {"text": ", ".join(f"{number:.4g}" for number in row["x"]) if "x" in row else _excerpt(input_text(row))}


def _excerpt(text: str) -> str:
    return text[:TEXT_LENGTH] + ("…" if len(text) > TEXT_LENGTH else "")
