"""Metrics of judged answers, against what they mean."""

from __future__ import annotations

import numpy as np
import pytest

from pretune.evaluation.metrics import compute
from pretune.evaluation.metrics.bootstrap import Bootstrap
from pretune.objectives.predictions import Judgements, Preferences

PAIRS = [["the sea", "an oven"]] * 4


def evaluate(**models):
    """What `evaluate` reports of models on four rows."""
    return compute.evaluate_models(models, Bootstrap(4, 200, 0.95, 0))


def scored(chosen, rejected, replies=(None,) * 4):
    """Preferences with these scores."""
    return Preferences(PAIRS, np.array(chosen, dtype=np.float32), np.array(rejected, dtype=np.float32), list(replies))


def test_accuracy_counts_pairs_and_a_tie_as_half():
    """Two right, one wrong, one tie; the margin is in the unit of the scores."""
    result = evaluate(one=scored([1, 2, 0, 5], [0, 1, 3, 5]))["one"]
    assert result["accuracy"]["value"] == 2.5 / 4
    assert result["margin"]["value"] == -0.25
    assert "closeness" not in result  # it writes nothing


def test_the_win_rate_is_of_answers_to_the_same_prompts():
    """Nearer to the preferred answer wins, the same answer is half a win; a model that writes nothing does not play."""
    scores = [0] * 4, [0] * 4
    one = scored(*scores, ["the sea", "the sea", "", "an oven"])
    other = scored(*scores, ["an oven", "the sea", "an oven", "an oven"])
    result = evaluate(one=one, other=other, silent=scored(*scores))
    assert set(result["win_rate"]) == {"other"}
    assert result["win_rate"]["other"]["value"] == pytest.approx((1 + 0.5 + 1 + 0.5) / 4)
    assert result["win_rate"]["other"]["low"] <= 0.75 <= result["win_rate"]["other"]["high"]
    assert result["gain"].keys() == {"other", "silent"}


def test_judgements_are_ranked_over_all_pairs_of_rows():
    """Three of four pairs of a good and a bad answer are in order."""
    judged = Judgements(np.array([True, True, False, False]), np.array([-1.0, -3.0, -2.0, -4.0], dtype=np.float32))
    assert evaluate(one=judged)["one"] == {"roc_auc": {"value": 0.75, **_bounds(evaluate(one=judged))}}


def _bounds(result):
    return {key: result["one"]["roc_auc"][key] for key in ("low", "high")}
