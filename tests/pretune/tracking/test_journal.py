from __future__ import annotations

import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretune.tracking import journal
from pretune.tracking.journal import Run

HALF = """
import os, pathlib, sys
from pretune.tracking.journal import Run
run = Run(pathlib.Path(sys.argv[1]), "left", tags={})
run.metrics({"loss": 1.0}, 1)
run._log._file.write('{"event": "metr')
run._log._file.flush()
os._exit(9)
"""


def events(run):
    """What stands in the journal of a run."""
    return journal.read(run.path, 0)[0]


def test_events_are_read_back_in_order(tmp_path):
    """What is recorded stands in the file at once, one event a line."""
    run = Run(tmp_path, "prepare", parent="above", tags={"a": "b"})
    run.params({"seed": 0, "model.type": "bert"})
    run.input("data/raw", "abc.dir")
    run.output("models/x", "def.dir")
    run.end("FINISHED")
    found = events(run)
    assert [event["event"] for event in found] == ["start", "params", "input", "tags", "end"]
    assert (found[0]["name"], found[0]["parent"], found[0]["tags"]) == (
        "prepare",
        "above",
        {"a": "b", "pretune.id": run.id},
    )
    assert found[1]["values"] == {"seed": "0", "model.type": "bert"}
    assert found[3]["values"] == {"dvc.out.models/x": "def.dir"}


def test_nested_metrics_get_dotted_names(tmp_path):
    """An estimate's `value` carries the name of the estimate."""
    run = Run(tmp_path, "evaluate", tags={})
    run.metrics({"finetuned": {"accuracy": {"value": 0.5, "low": 0.4}}, "rows": 3}, 7)
    assert events(run)[1]["values"] == {"finetuned.accuracy": 0.5, "finetuned.accuracy.low": 0.4, "rows": 3.0}
    assert events(run)[1]["step"] == 7
    run.end("FINISHED")


def test_the_latest_values_are_kept(tmp_path):
    """Each metric's newest value and every output, without reading the journal."""
    run = Run(tmp_path, "finetune", tags={})
    run.metrics({"loss": 2.0, "accuracy": {"value": 0.5}}, 10)
    run.metrics({"loss": 1.0}, 20)
    run.output("models/x", "def.dir")
    assert (run.latest, run.outputs) == ({"loss": 1.0, "accuracy": 0.5}, {"models/x": "def.dir"})
    run.end("FINISHED")


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=6), st.integers(0, 5))
def test_reading_on_from_an_offset_loses_nothing(tmp_path_factory, texts, first):
    """Read in two parts, at any point, the events are those of one reading; any text survives."""
    run = Run(tmp_path_factory.mktemp("state"), "x", tags={})
    for text in texts[:first]:
        run.text("note", text)
    head, offset = journal.read(run.path, 0)
    for text in texts[first:]:
        run.text("note", text)
    tail, _ = journal.read(run.path, offset)
    assert [event["content"] for event in (head + tail)[1:]] == texts
    run.end("FINISHED")


def test_a_journal_is_being_written_until_it_ends(tmp_path):
    """Whoever looks knows whether the writer is at work."""
    run = Run(tmp_path, "x", tags={})
    assert journal.is_being_written(run.path)
    run.end("FINISHED")
    assert not journal.is_being_written(run.path)


def test_a_dead_writer_leaves_whole_lines(tmp_path):
    """Of a process that ended within a line, the lines before it are read and the half one is not."""
    done = subprocess.run([sys.executable, "-c", HALF, tmp_path], check=False)
    assert done.returncode == 9
    (path,) = journal.folder(tmp_path).iterdir()
    assert not journal.is_being_written(path)
    found, end = journal.read(path, 0)
    assert [event["event"] for event in found] == ["start", "metrics"]
    assert end < path.stat().st_size


def test_journals_sort_by_time_of_creation(tmp_path):
    """A parent's record comes before those of its stages."""
    runs = [Run(tmp_path, name, tags={}) for name in "cab"]
    assert sorted(journal.folder(tmp_path).glob("*.jsonl")) == [run.path for run in runs]
    for run in runs:
        run.end("FINISHED")


def test_a_number_that_is_none_survives(tmp_path):
    """NaN and infinities are recorded as such."""
    run = Run(tmp_path, "x", tags={})
    run.metrics({"a": math.nan, "b": math.inf})
    values = events(run)[1]["values"]
    assert math.isnan(values["a"])
    assert values["b"] == math.inf
    run.end("FINISHED")


def test_nothing_is_written_after_the_end(tmp_path):
    """A record that has ended is closed."""
    run = Run(tmp_path, "x", tags={})
    run.end("FINISHED")
    with pytest.raises(ValueError, match="closed"):
        run.tags({"late": "yes"})
