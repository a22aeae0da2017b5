"""Steps that fit into a stated time."""

from __future__ import annotations

import pytest

from pretune.data.inspect.machine import OVERHEAD, Pace, enough, family, plan
from pretune.objectives.requirements import COLUMNS


@pytest.mark.parametrize("minutes", [1, 10])
@pytest.mark.parametrize("rows", [20, 5000, 10**6])
@pytest.mark.parametrize("pace", [Pace(0.01, 0.01), Pace(0.5, 0.2)])
def test_training_fits_into_the_time(minutes, rows, pace):
    """Fewer rows where an epoch takes too long; a small corpus is not read without end."""
    planned = plan(pace, minutes, enough=enough("binary"), rows=rows, batch=16, corpus_steps=rows / 32)
    assert planned.minutes <= minutes * 1.01 + OVERHEAD / 60
    assert planned.steps >= 1
    assert 1 <= planned.epochs <= 20
    assert planned.train_rows is None or planned.train_rows < rows
    assert planned.steps <= max(100, 30 * rows / 32)


def test_every_objective_has_a_family():
    """Decoders for texts that go on, both for texts that follow from texts."""
    assert {family(objective) for objective in COLUMNS} == {"modernbert", "gpt2", "llama", "bart", "vit", "linear"}
