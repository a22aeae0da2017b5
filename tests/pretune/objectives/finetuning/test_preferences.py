"""Preferences in evaluation: the model is asked what it was trained on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pretune.objectives.base import ObjectiveContext
from pretune.objectives.completions import Completions
from pretune.objectives.finetuning import orpo
from pretune.objectives.finetuning.table import OBJECTIVES
from pretune.predictor import chat

TOOLS = '[{"type": "function", "function": {"name": "bake", "parameters": {}}}]'
TEMPLATE = (
    "{% for t in tools or [] %}{{ t.function.name }};{% endfor %}"
    "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ sep_token }}{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
ROW = {
    "messages": [{"role": "user", "content": "flour?"}],
    "chosen": [{"role": "assistant", "content": "butter"}],
    "rejected": [{"role": "assistant", "content": "salt"}],
    "tools": TOOLS,
}
SETTINGS = {
    "simpo": {"template": TEMPLATE, "reply_tokens": 4, "beta": 2.0, "gamma": 1.0},
    "reward": {"template": TEMPLATE},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_tools_of_a_row_reach_the_model_in_evaluation_too(name, words, monkeypatch):
    """They stand in the prompts that are answered and in the conversations that are rated, as they do in training."""
    objective_class = OBJECTIVES[name]
    settings = objective_class.Settings.model_validate(SETTINGS[name])
    objective = objective_class([ROW], ObjectiveContext(words, 64, 0, settings))
    assert all("bake;" in words.decode(ids) for ids, _ in objective.pairs[0])
    asked = []

    class Asked(Exception):  # noqa: N818 - it ends the test
        pass

    def note(self, rows):
        asked.extend(chat.render(self.tokenizer, list(row["messages"]), row.get("tools")) for row in rows)
        raise Asked

    monkeypatch.setattr(
        "pretune.objectives.finetuning.preferences.log_probs", lambda _, both, told: np.zeros(len(both))
    )
    monkeypatch.setattr(chat.Reply, "__call__", note)
    monkeypatch.setattr(chat.Reward, "logits", note)
    with pytest.raises(Asked):
        objective.predict(None)
    assert asked
    assert all(text.startswith("bake;user: flour?") for text in asked)


def test_the_divergence_of_kto_is_not_negative_and_good_and_bad_answers_count(words, monkeypatch):
    """Equations 7 to 9: with an estimate below 0 the margin is that of the reference; a bad answer should have none."""
    settings = {"template": TEMPLATE, "reply_tokens": 4, "beta": 0.4, "desirable_weight": 1.5, "undesirable_weight": 1}
    rows = [
        {"messages": ROW["messages"] + ROW[name], "desirable": name == "chosen", "reference": [-2.0, -3.0]}
        for name in ("chosen", "rejected")
    ]
    kto = OBJECTIVES["kto"]
    objective = kto(rows, ObjectiveContext(words, 64, 0, kto.Settings.model_validate(settings)))
    values = iter([torch.tensor([-5.0, -5.0]), torch.tensor([-1.0, -1.0])])  # mismatched, then the answers
    monkeypatch.setattr(Completions, "log_probs", lambda *_: next(values))
    found = objective.score(None, objective.batch(np.zeros(2, dtype=int), np.arange(2)))
    good, bad = torch.sigmoid(torch.tensor([0.4, -0.4]))
    torch.testing.assert_close(found["loss"], 1.5 * (1 - good) + (1 - bad))
    assert int(found["accuracy"]) == 1


def test_the_odds_of_orpo_are_exact_where_an_answer_is_nearly_sure_or_impossible():
    """log(1 - e^x), whose terms cancel in fp32 at either end."""
    values = torch.tensor([-1e-6, -1e-3, -0.69, -0.7, -5.0, -30.0, -80.0])
    expected = [
        math.log(-math.expm1(value)) if value > -1 else math.log1p(-math.exp(value)) for value in values.tolist()
    ]
    torch.testing.assert_close(orpo._log1mexp(values), torch.tensor(expected), rtol=1e-5, atol=0)
