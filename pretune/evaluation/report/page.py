"""The report: one HTML file that holds all it shows, so that it opens anywhere and without a network."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from pretune.data.rows import Row
from pretune.evaluation import label_efficiency, slices
from pretune.evaluation.report import charts
from pretune.evaluation.report.attribution import Cells, Piece
from pretune.evaluation.report.curves import Point
from pretune.evaluation.report.html import document, table
from pretune.evaluation.report.mistakes import Mistake
from pretune.evaluation.report.samples import Sample

NAMES = {
    "finetuned": "finetuned from the pretrained model",
    "scratch": "the same model from scratch",
    "majority": "baseline: the commonest answer",
    "mean": "baseline: the mean of the training rows",
    "tfidf": "baseline: TF-IDF and a linear model",
    "pixels": "baseline: pixels and a linear model",
    "linear": "baseline: a linear model",
    "nearest": "baseline: the nearest training row or sentence",
    "unigram": "baseline: frequencies of bytes",
}
TOOK = {  # metrics of a training run
    "seconds": "seconds",
    "device_hours": "device hours",
    "energy_kwh": "kWh",
    "co2_kg": "kg of CO₂",
}
LONG = 400  # characters of a text that are shown
MATRIX = 30  # classes that a confusion matrix can show
ELSEWHERE = (
    "<p>Time and energy differ from run to run: they are in the copy of this page that MLflow has, "
    "and <code>pretune compare RUN</code> tells them.</p>"
)
ESTIMATED = (
    "<p>Device hours are those of all processes that trained. Energy is an estimate by codecarbon; CO₂ is that of the "
    "country named by CODECARBON_COUNTRY_ISO_CODE, else of the world's mean.</p>"
)


def render(
    result: Mapping[str, Any],
    *,
    rows: Sequence[Row],
    slices: Sequence[Point],
    tables: Mapping[str, Sequence[Point]],
    mistakes: Sequence[Mistake],
    explained: Mapping[int, Sequence[Piece] | Cells],
    samples: Sequence[Sample],
    training: Mapping[str, Sequence[Mapping[str, str]]],
    costs: Mapping[str, Mapping[str, float]],
) -> str:
    """The page. rows: of the test; explained: {row: what in it spoke for the answer}.

    training: {stage: its curve}; costs: {stage: metrics of its run}, none in a page that has to be the same each time.
    """
    headline = next(iter(result["finetuned"]))
    parts = [
        f"<h1>Evaluation on {result['test_rows']} test rows</h1>",
        f'<p class="lead">{escape(_lead(result, headline))}</p>',
        _section("Models", _models(result)),
        _section("Is it better?", _gains(result, headline)),
        _section("Is it as sure as it is right?", _confidence(result)),
        _section("How many labels it takes", _labels(result, headline)),
        _section("How training went", _plots(_training(training))),
        _section("What training took", _compute(training, costs)),
        _section("Where it is right", _plots(_figures(tables))),
        _section("Slices", _slices(slices, headline)),
        _section("What it writes", _samples(samples)),
        _section("The worst mistakes", _mistakes(mistakes, rows, explained)),
    ]
    return document("Pretune: evaluation", "\n".join(part for part in parts if part))


def estimate(found: Mapping[str, float] | None) -> str:
    """A value and its interval."""
    if not found:
        return "-"
    return f"{found['value']:.4g} <small>{found['low']:.4g} to {found['high']:.4g}</small>"


def si(number: float) -> str:
    """Three digits and a prefix for thousands: 5.8 T."""
    for prefix in ("", "k", "M", "G", "T", "P", "E"):
        if number < 999.5 or prefix == "E":
            break
        number /= 1000
    return f"{number:.3g} {prefix}".strip()


def _lead(result: Mapping[str, Any], headline: str) -> str:
    own, gain = result["finetuned"][headline], result["gain"]["scratch"]
    surely = "surely" if gain["low"] > 0 else "perhaps" if gain["value"] > 0 else "not"
    return (
        f"{headline} {own['value']:.4g} ({own['low']:.4g} to {own['high']:.4g}, {result['confidence']:.0%} interval). "
        f"Pretraining {surely} helped: {gain['value']:+.4g} ({gain['low']:+.4g} to {gain['high']:+.4g}) "
        f"over the same model from scratch, on the same rows."
    )


def _section(title: str, content: str) -> str:
    return f"<section><h2>{title}</h2>{content}</section>" if content else ""


def _models(result: Mapping[str, Any]) -> str:
    models = [name for name in NAMES if name in result]
    metrics = list(result["finetuned"])
    body = [[escape(metric), *(estimate(result[name].get(metric)) for name in models)] for metric in metrics]
    return table(["", *(escape(NAMES[name]) for name in models)], body, numbers=range(1, len(models) + 1))


def _gains(result: Mapping[str, Any], headline: str) -> str:
    body = [[escape(NAMES[name]), estimate(gain), f"{gain['p']:.2g}"] for name, gain in result["gain"].items()]
    note = (
        "<p>By how much the finetuned model is better, compared row by row (paired bootstrap); above 0 is better.</p>"
    )
    return note + table(["than", f"in {escape(headline)}", "p"], body, numbers=(1, 2))


def _confidence(result: Mapping[str, Any]) -> str:
    found = result.get("calibration")
    if not found:
        return ""
    body = [[escape(name), estimate(found["before"][name]), estimate(found["after"][name])] for name in found["after"]]
    note = (
        f"<p>The finetuned model divides its logits by {found['temperature']:g}, its temperature, which was fitted "
        "to the validation rows. The answers stay the same, their probabilities do not. Lower is better.</p>"
    )
    return note + table(["", "before", "after"], body, numbers=(1, 2))


def _labels(result: Mapping[str, Any], headline: str) -> str:
    found = result.get("label_efficiency", {})
    if not found:
        return ""
    lines = {
        NAMES[name]: [(each["rows"], each[name]) for each in found.values() if each.get(name)]
        for name in label_efficiency.MODELS
    }
    body = [
        [
            f"{100 * float(share):.4g} %",
            *(str(each[key]) for key in ("rows", "labels") if key == "rows" or each[key]),
            *(estimate(each.get(name)) for name in (*label_efficiency.MODELS, *label_efficiency.COMPARED)),
        ]
        for share, each in found.items()
    ]
    labels = ["labels among them"] if next(iter(found.values()))["labels"] else []
    heads = ["share", "labelled rows", *labels, "finetuned", "from scratch", "gain", "gain over scratch on all"]
    note = (
        "<p>Each model took the same number of steps, on rows that are among those of every larger share. "
        "The intervals tell how much other test rows would change; other labelled rows, or another seed, "
        "change more than that where rows are few.</p>"
    )
    plot = _figure(headline, charts.intervals(lines, x="labelled rows", y=headline))
    told = f"<p>{escape(label_efficiency.saving(found))}</p>"
    return told + _plots([plot]) + table(heads, body, numbers=range(len(heads))) + note


def _figure(title: str, content: str, *, wide: bool = False) -> str:
    kind = ' class="any"' if wide else ""
    return f"<figure{kind}><figcaption>{escape(title)}</figcaption>{content}</figure>" if content else ""


def _plots(figures: Iterable[str]) -> str:
    found = "".join(figures)
    return f'<div class="plots">{found}</div>' if found else ""


def _training(training: Mapping[str, Sequence[Mapping[str, str]]]) -> Iterable[str]:
    for stage, rows in training.items():
        series = {name: _column(rows, name) for name in ("loss", "validation_loss")}
        rate = {"learning rate": _column(rows, "learning_rate")}
        shown = {name: points for name, points in series.items() if points}
        yield _figure(stage, charts.lines(shown, x="step", y="loss", right=rate))


def _column(rows: Sequence[Mapping[str, str]], name: str) -> list[tuple[float, float]]:
    return [(float(row["step"]), float(row[name])) for row in rows if row.get(name)]


def _compute(training: Mapping[str, Sequence[Mapping[str, str]]], took: Mapping[str, Mapping[str, float]]) -> str:
    """Steps and FLOPs; what differs from run to run stands beside them where it is known."""
    words = {name: word for name, word in TOOK.items() if any(name in each for each in took.values())}
    body = [
        [
            escape(stage), rows[-1]["step"], rows[-1]["loss"], si(float(rows[-1]["flops"])),
            *(f"{took[stage][name]:.3g}" if name in took.get(stage, ()) else "-" for name in words),
        ]
        for stage, rows in training.items()
        if rows
    ]  # fmt: skip
    head = ["stage", "steps", "last loss", "FLOPs", *words.values()]
    return table(head, body, numbers=range(1, len(head))) + (ESTIMATED if words else ELSEWHERE) if body else ""


def _figures(tables: Mapping[str, Sequence[Point]]) -> Iterable[str]:
    if pairs := Counter((str(row["label"]), str(row["predicted"])) for row in tables.get("confusion", ())):
        names = sorted({name for pair in pairs for name in pair})
        if len(names) <= MATRIX:
            counts = [[pairs[right, said] for said in names] for right in names]
            yield _figure("Confusion: rows are right, columns were said", charts.shades(names, counts), wide=True)
    if found := tables.get("roc"):
        series = _by_label(found, "false_positives", "true_positives")
        yield _figure("ROC", charts.lines(series, x="false positives", y="true positives", diagonal=True))
    if found := tables.get("precision_recall"):
        yield _figure(
            "Precision and recall", charts.lines(_by_label(found, "recall", "precision"), x="recall", y="precision")
        )
    if found := tables.get("reliability"):
        points = {"accuracy": [(float(row["confidence"]), float(row["accuracy"])) for row in found]}
        plot = charts.lines(points, x="confidence", y="accuracy", diagonal=True, marks=True)
        yield _figure("Reliability: on the line, confidence is right", plot)
    if found := tables.get("scatter"):
        points_ = [(float(row["target"]), float(row["predicted"])) for row in found]
        yield _figure("Predicted and right", charts.points(points_, x="right", y="predicted"))


def _by_label(found: Sequence[Point], x: str, y: str) -> dict[str, list[tuple[float, float]]]:
    series: dict[str, list[tuple[float, float]]] = {}
    for row in found:
        series.setdefault(str(row["label"]), []).append((float(row[x]), float(row[y])))
    return series


def _slices(slices: Sequence[Point], headline: str) -> str:
    body = [[escape(str(row["slice"])), str(row["rows"]), estimate(row)] for row in slices]  # type: ignore[arg-type]
    return table(["rows with", "number", escape(headline)], body, numbers=(1, 2)) if body else ""


def _samples(samples: Sequence[Sample]) -> str:
    body = [[_text(each.asked), _text(each.wanted), _text(each.said)] for each in samples]
    note = "<p>Rows spread evenly over the test; of each place the likeliest token.</p>"
    return note + table(["asked", "what stands there", "what the model writes"], body) if body else ""


def _mistakes(
    mistakes: Sequence[Mistake], rows: Sequence[Row], explained: Mapping[int, Sequence[Piece] | Cells]
) -> str:
    body = [
        [_shown(rows[each.row], explained.get(each.row)), escape(each.wanted), escape(each.said), escape(each.by)]
        for each in mistakes
    ]
    marked = "<p>Marked is what spoke for the answer given (blue) and against it (red).</p>" if explained else ""
    return marked + table(["asked", "right", "said", ""], body) if body else ""


def _shown(row: Row, explained: Sequence[Any] | None) -> str:
    """What was asked, as one sees it; with the cells of an image or the pieces of a text marked."""
    if "image" in row:
        address = f"data:image/png;base64,{base64.b64encode(row['image']).decode()}"
        return f'<img alt="" src="{address}">' + (f" {charts.marked(address, explained)}" if explained else "")
    if explained:
        return f"<pre>{''.join(map(_piece, explained))}</pre>"
    if "x" in row:
        return escape(", ".join(f"{each:.4g}" for each in row["x"]))
    return _text(slices.asked(row))


def _text(text: str) -> str:
    return f"<pre>{escape(text[:LONG] + ('…' if len(text) > LONG else ''))}</pre>"


def _piece(piece: Piece) -> str:
    if not piece.weight:
        return escape(piece.text)
    colour = "43,99,168" if piece.weight > 0 else "194,69,45"
    shade = f"rgba({colour},{min(1.0, abs(piece.weight)) * 0.6:.2f})"
    return f'<mark style="background:{shade}" title="{piece.weight:+.2f}">{escape(piece.text)}</mark>'
