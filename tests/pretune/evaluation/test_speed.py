from __future__ import annotations

import time

import pytest

from pretune.evaluation import speed


class Model:
    """Takes a tenth of a second longer with each row; what it writes has three tokens."""

    def __init__(self, clock, generated=None):
        self.clock, self.rows, self.generated = clock, [], generated

    def __call__(self, rows):
        self.rows += rows
        self.clock[0] += len(self.rows) / 10
        return [{"text": "one two three"}]

    def tokenizer(self, text, **_):
        return {"input_ids": text.split()}


@pytest.fixture
def clock(monkeypatch):
    """Seconds that only the model adds to."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_a_generated_text_is_timed_on_ten_rows_and_per_token(clock):
    """The first row does not count; a text of three tokens took four steps."""
    model = Model(clock, "text")
    measured = speed.latency(model, [{"n": 0}, {"n": 1}])
    assert [row["n"] for row in model.rows] == [0, 1] * 5 + [0]
    assert measured["latency_p50"] == pytest.approx(0.65)
    assert measured["latency_per_token"] == pytest.approx(0.65 / 4)


def test_other_answers_are_timed_on_many_rows(clock):
    """Two hundred after five that do not count."""
    model = Model(clock)
    assert speed.latency(model, [{"n": 0}]).keys() == {"latency_p50", "latency_p99"}
    assert len(model.rows) == 205
