from __future__ import annotations

from cli import compare
from pretune.release.runs import Evaluation
from pretune.tracking.record import Record


def evaluation(**gains):
    """One with these gains; the interval reaches a tenth to each side."""
    ends = {"": 0, ".low": -0.1, ".high": 0.1}
    metrics = {f"gain.{name}{end}": gain + by for name, gain in gains.items() for end, by in ends.items()}
    return Evaluation("e", Record("r", "evaluate", "FINISHED", 0, None, {}, metrics=metrics), {})


def test_what_each_evaluation_was_compared_with_is_shown():
    """The gain over the checkpoint as it came, with its interval; a model that only one of them had is a dash."""
    rows = compare.gains({"a": evaluation(base=0.5, nearest=0.75), "b": evaluation(base=0.25)})
    assert rows == [
        ["the checkpoint as it came", "+0.5 (+0.4 to +0.6)", "+0.25 (+0.15 to +0.35)"],
        ["nearest training row or sentence", "+0.75 (+0.65 to +0.85)", "-"],
    ]


def test_benchmarks_stand_side_by_side():
    """The evaluated model of each; a benchmark that only one of them had is a dash."""
    ends = {"": 0.5, ".low": 0.4, ".high": 0.6, ".p": 0.0}
    metrics = {f"benchmarks.arc/acc.finetuned{end}": value for end, value in ends.items()}
    record = Record("r", "evaluate", "FINISHED", 0, None, {}, metrics={"finetuned.accuracy": 1.0} | metrics)
    rows = compare.benchmarks({"a": Evaluation("e", record, {}), "b": evaluation(base=0.5)})
    assert rows == [["arc/acc", "0.5 (0.4 to 0.6)", "-"]]
