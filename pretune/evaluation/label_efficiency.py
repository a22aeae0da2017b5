"""How many labels pretraining saves: both models on shares of the labelled rows, measured on the same test rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pretune.evaluation.metrics.bootstrap import Bootstrap
    from pretune.evaluation.report.curves import Point
    from pretune.objectives.predictions import Predictions

MODELS = ("finetuned", "scratch")
COMPARED = ("gain", "over_all")  # with the model from scratch on the same share, and on all labels


@dataclass(frozen=True)
class Share:
    """A share of the labelled rows, how many rows and labels are in it, what each of MODELS learnt to say from it."""

    share: float
    rows: int
    labels: int
    said: Mapping[str, Predictions]


def read(folder: Path, said: Mapping[str, Predictions]) -> list[Share]:
    """What the stage `label_efficiency` has left, the smallest share first; `said` was learnt from all rows."""
    from pretune.config import files
    from pretune.objectives import predictions_io

    found = []
    for row in files.read_csv(folder / "shares.csv"):
        path = folder / f"{row['share']}.json"
        models = predictions_io.loads(path.read_text(encoding="utf-8")).models if path.exists() else said
        found.append(Share(float(row["share"]), int(row["rows"]), int(row["labels"]), models))
    return found


def measured(found: Sequence[Share], bootstrap: Bootstrap) -> dict[str, Any]:
    """By share: the headline of both models, and two paired gains of the pretrained one.

    `gain` is that over the model from scratch on the same share, `over_all` that over the one on all labels.
    """
    from pretune.evaluation.metrics import compute

    whole = compute.metrics(found[-1].said["scratch"])
    result: dict[str, Any] = {}
    for each in found:
        pretrained, new = (compute.metrics(each.said[name]) for name in MODELS)
        entry: dict[str, Any] = {"rows": each.rows, "labels": each.labels}
        headlines = {
            name: next(iter(each.values())).measure for name, each in zip(MODELS, (pretrained, new), strict=True)
        }
        entry |= {name: score.as_dict() for name, score in bootstrap.estimates(headlines).items()}
        entry["gain"] = compute.gain(pretrained, new, bootstrap).as_dict()
        entry["over_all"] = compute.gain(pretrained, whole, bootstrap).as_dict()
        result[f"{each.share:g}"] = entry
    return result


def tables(result: Mapping[str, Any]) -> dict[str, list[Point]]:
    """What was measured as a table for DVC's plot, and for people: a row for each share."""
    found = result.get("label_efficiency", {})
    rows: list[Point] = []
    for share, entry in found.items():
        row: Point = {"share": float(share), "rows": entry["rows"], "labels": entry["labels"]}
        for name in (*MODELS, *COMPARED):
            value = entry.get(name, {})
            row |= {
                name: value.get("value", ""),
                f"{name}_low": value.get("low", ""),
                f"{name}_high": value.get("high", ""),
            }
        rows.append(row)
    return {"label_efficiency": rows} if rows else {}


def saving(found: Mapping[str, Any]) -> str:
    """The answer in a sentence: from how many labels the pretrained model does what the other one does with all."""
    *parts, whole = found.items()
    best = f"the model from scratch on all {whole[1]['rows']}"
    for end, words in (("low", "surely better than"), ("value", "about as good as")):
        for share, entry in parts:
            if entry["over_all"][end] >= 0:
                rows = f"{100 * float(share):.4g} % of the labels ({entry['rows']} rows)"
                return f"From {rows} the pretrained model is {words} {best}."
    return f"On none of these shares is the pretrained model as good as {best}."
