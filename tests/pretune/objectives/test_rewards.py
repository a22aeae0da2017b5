"""Rewards of answers: what counts as right, what is refused, and that nothing is executed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pretune.objectives.rewards import TABLE, Rewards

ANY = {"pattern": {"pattern": "x"}, "shape": {"shape": {}}}


def settings(name):
    """Settings of a reward, with an own key where it has one."""
    own = [key for key in TABLE[name].model_fields if key != "weight"]
    return {"weight": 1.0} | {key: ANY[key][key] for key in own}


@pytest.mark.parametrize(
    ("name", "more", "answer", "target", "score"),
    [
        ("exact_match", {}, " Paris\n", "Paris", 1),
        ("exact_match", {}, "Paris.", "Paris", 0),
        ("numeric", {}, "7 + 5 is 12, so: 1,234.50", "#### 1234.5", 1),
        ("numeric", {}, "-3", "3", 0),
        ("numeric", {}, "about .5", "0.5", 1),
        ("numeric", {}, "1e3", "1000", 1),
        ("numeric", {}, "none", "3", 0),
        ("numeric", {}, "3", "none", 0),
        ("regex", {"pattern": r"\d+"}, " 42 ", "", 1),
        ("regex", {"pattern": r"\d+"}, "42 apples", "", 0),
        ("json", {"shape": {"type": "object", "required": ["city"]}}, 'Here:\n```json\n{"city": "Rome"}\n```', "", 1),
        ("json", {"shape": {"type": "object", "required": ["city"]}}, '{"town": "Rome"}', "", 0),
        ("json", {"shape": {}}, "{city}", "", 0),
        ("json", {"shape": {}}, "[" * 100_000, "", 0),
        ("python", {}, "```python\nraise SystemExit(1)\n```", "", 1),
        ("python", {}, "def f(:", "", 0),
        ("python", {}, "", "", 0),
    ],
)
def test_a_reward_says_what_is_right(name, more, answer, target, score):
    """Each rule on an answer that keeps it and on one that does not; code that would end the process is only read."""
    assert Rewards({name: {"weight": 2.0} | more}).score(answer, target) == score


def test_rewards_are_a_weighted_mean():
    """A right number in the wrong form gets the share of its weight."""
    rewards = Rewards({"numeric": {"weight": 3.0}, "regex": {"weight": 1.0, "pattern": r"\d+"}})
    assert rewards.score("it is 7", "7") == 0.75


@given(answer=st.text(), target=st.text())
def test_any_answer_has_a_reward_from_0_to_1(answer, target):
    """Whatever a model writes."""
    rewards = Rewards({name: settings(name) for name in TABLE})
    assert 0 <= rewards.score(answer, target) <= 1


@pytest.mark.parametrize(
    ("named", "problem"),
    [
        ({}, "none is named"),
        ({"judge": {"weight": 1.0}}, "no reward judge; there are: exact_match"),
        ({"regex": {"weight": 1.0, "pattern": "("}}, "no regular expression"),
        ({"json": {"weight": 1.0, "shape": {"type": "thing"}}}, "no JSON schema"),
        ({"numeric": {"weight": 0.0}}, "greater than 0"),
        ({"numeric": {}}, "weight: Field required"),
    ],
)
def test_what_is_no_reward_is_refused(named, problem):
    """Before any work, with what there is."""
    with pytest.raises(ValidationError, match=problem):
        Rewards(named)
