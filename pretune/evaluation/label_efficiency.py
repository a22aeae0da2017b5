"""How many labels pretraining saves: both models trained on shares of the labelled rows, on the same test rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pretune.evaluation.metrics.bootstrap import Bootstrap, Metric
    from pretune.evaluation.report.curves import Point
    from pretune.objectives.predictions import Predictions

MODELS = ("finetuned", "scratch")
GAINS = ("gain", "over_all")  # over the model from scratch on the same share, and on all labels


@dataclass(frozen=True)
class Share:
    """A share of the labelled rows, its numbers of rows and labels, and the predictions of MODELS trained on it."""

    share: float
    rows: int
    labels: int
    predictions: Mapping[str, Predictions]


def read_shares(folder: Path, predictions: Mapping[str, Predictions]) -> list[Share]:
    """The outputs of the stage `label_efficiency`, smallest share first; predictions: of the models on all rows."""
    from pretune.config import files
    from pretune.objectives import predictions_io

    shares = []
    for row in files.read_csv(folder / "shares.csv"):
        path = folder / f"{row['share']}.json"
        models = predictions_io.loads(path.read_text(encoding="utf-8")).models if path.exists() else predictions
        shares.append(Share(float(row["share"]), int(row["rows"]), int(row["labels"]), models))
    return shares


def evaluate_shares(shares: Sequence[Share], bootstrap: Bootstrap) -> dict[str, Any]:
    """By share: the headline of both models, and two paired gains of the pretrained model.

    `gain` is over the model from scratch on the same share, `over_all` over the one on all labels; neither without one.
    """
    from pretune.evaluation.metrics import compute

    whole = _metrics(shares[-1])
    result: dict[str, Any] = {}
    for share in shares:
        models = _metrics(share)
        headlines = {name: next(iter(metrics.values())).measure for name, metrics in models.items()}
        rivals = {"gain": models, "over_all": whole} if "scratch" in models else {}
        result[f"{share.share:g}"] = {
            "rows": share.rows,
            "labels": share.labels,
            **{name: estimate.as_dict() for name, estimate in bootstrap.estimates(headlines).items()},
            **{
                name: compute.gain(models["finetuned"], rival["scratch"], bootstrap).as_dict()
                for name, rival in rivals.items()
            },
        }
    return result


def _metrics(share: Share) -> dict[str, dict[str, Metric]]:
    """The metrics of those of MODELS that were trained."""
    from pretune.evaluation.metrics import compute

    return {name: compute.metrics(share.predictions[name]) for name in MODELS if name in share.predictions}


def tables(result: Mapping[str, Any]) -> dict[str, list[Point]]:
    """{"label_efficiency": a row for each share}, for DVC's plot; empty if it was not measured."""
    rows: list[Point] = []
    for share, entry in result.get("label_efficiency", {}).items():
        row: Point = {"share": float(share), "rows": entry["rows"], "labels": entry["labels"]}
        for name in (*MODELS, *GAINS):
            estimate = entry.get(name, {})
            row |= {
                name: estimate.get("value", ""),
                f"{name}_low": estimate.get("low", ""),
                f"{name}_high": estimate.get("high", ""),
            }
        rows.append(row)
    return {"label_efficiency": rows} if rows else {}


def describe_saving(by_share: Mapping[str, Any]) -> str:
    """In a sentence: the smallest share on which the pretrained model is as good as the other one on all labels.

    "" where no model was trained from scratch.
    """
    *parts, (_, whole) = by_share.items()
    if "over_all" not in whole:
        return ""
    rival = f"the model from scratch on all {whole['rows']}"
    for end, words in (("low", "significantly better than"), ("value", "about as good as")):
        for share, entry in parts:
            if entry["over_all"][end] >= 0:
                rows = f"{100 * float(share):.4g} % of the labels ({entry['rows']} rows)"
                return f"From {rows} the pretrained model is {words} {rival}."
    return f"On none of these shares is the pretrained model as good as {rival}."
