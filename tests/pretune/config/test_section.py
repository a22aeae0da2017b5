"""Pydantic's errors in plain words."""

from __future__ import annotations

from typing import Literal

import pytest
from pydantic import ValidationError, model_validator

from pretune.config.section import Count, NoSettings, PositiveFraction, Section, describe


class Settings(Section):
    """A section of three keys."""

    beams: Count
    share: PositiveFraction
    mode: Literal["greedy", "beam"]

    @model_validator(mode="after")
    def _check(self):
        if self.mode == "greedy" and self.beams > 1:
            raise ValueError("greedy needs beams: 1")
        return self


def problems(values, model=Settings, **texts):
    """The lines for values that a model refuses."""
    with pytest.raises(ValidationError) as caught:
        model.model_validate(values)
    return describe(caught.value, model, "finetune.settings", **texts)


def test_each_problem_has_its_path_with_the_prefix_and_its_value():
    """Bounds, types and choices, the last with the nearest word; a number in quotes with a hint."""
    assert problems({"beams": 0, "share": "1", "mode": "beem"}) == [
        "finetune.settings.beams: input should be greater than or equal to 1, got 0",
        "finetune.settings.share: input should be a valid number, got '1'; `1` is text here: write it without quotes",
        "finetune.settings.mode: input should be 'greedy' or 'beam', got 'beem' (did you mean beam?)",
    ]


def test_unknown_and_missing_keys_have_the_words_of_the_caller():
    """The nearest key is suggested, and an old name is answered with the new one."""
    lines = problems(
        {"bems": 1, "part": 0.5, "mode": "beam"},
        unknown="no setting of this objective",
        missing="the objective needs it",
        renamed={"part": "share"},
    )
    assert lines == [
        "finetune.settings.beams: missing; the objective needs it",
        "finetune.settings.share: missing; the objective needs it",
        "finetune.settings.bems: no setting of this objective (did you mean beams?)",
        "finetune.settings.part: is called share now; rename it",
    ]


def test_keys_that_do_not_fit_together_have_the_path_of_the_section():
    """The message of the validator follows."""
    assert problems({"beams": 4, "share": 1.0, "mode": "greedy"}) == ["finetune.settings: greedy needs beams: 1"]


def test_no_settings_have_no_keys():
    """Any key is unknown."""
    assert problems({"a": 1}, NoSettings) == ["finetune.settings.a: unknown key"]
