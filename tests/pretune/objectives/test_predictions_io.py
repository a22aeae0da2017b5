from __future__ import annotations

import json

import numpy as np
import pytest

from pretune.evaluation.metrics import compute
from pretune.objectives import predictions_io
from pretune.objectives.predictions_io import StoredPredictions

FORMS = ["classes", "two_classes", "many_labels", "numbers", "tags", "texts", "answers", "likelihoods"]


@pytest.mark.parametrize("name", FORMS)
def test_predictions_come_back_as_they_were(forms, name):
    """In every form, for every model, to six digits: metrics on them are the same."""
    stored = {"one": forms[name](), "two": forms[name](seed=7)}
    if hasattr(stored["one"], "targets"):
        stored["two"] = type(stored["two"])(**(vars(stored["two"]) | {"targets": stored["one"].targets}))
    text = predictions_io.dumps(StoredPredictions([f"row {row}" for row in range(60)], stored))
    back = predictions_io.loads(text)
    assert predictions_io.dumps(back) == text
    assert back.rows[3] == "row 3"
    for model, predicted in stored.items():
        assert type(back.models[model]) is type(predicted)
        for metric, known in compute.metrics(predicted).items():
            again = compute.metrics(back.models[model])[metric]
            ones = np.ones((1, 60))
            assert again.measure(ones) == pytest.approx(known.measure(ones), rel=1e-3), metric


@pytest.mark.parametrize("name", FORMS)
def test_some_rows_can_be_taken(forms, name):
    """In the order of the indices; the names of classes stay."""
    predicted = forms[name]()
    taken = predictions_io.take(predicted, [5, 2])
    assert compute.count(taken) == 2
    whole, part = (json.loads(predictions_io.dumps(StoredPredictions([], {"m": rows}))) for rows in (predicted, taken))
    for key, values in part["models"]["m"].items():
        assert values == [whole["models"]["m"][key][place] for place in (5, 2)]
    assert part["shared"].get("names") == whole["shared"].get("names")
