"""What a sweep makes of the ways in which a run may end; whole sweeps are in tests/end_to_end/test_sweep.py."""

from __future__ import annotations

import json

import pytest

from flows.sweep import folder as folders
from flows.sweep import report
from flows.sweep.folder import SweepFolder
from flows.sweep.pool import INTERRUPTED
from flows.sweep.sweep import Sweep
from pretune.errors import ParamsError, StageFailedError
from pretune.studies import settings
from pretune.studies.outcomes import PRUNED


class Quiet:
    """A display that keeps the lines that stay."""

    def __init__(self):
        self.lines = []

    def line(self, text):
        self.lines.append(text)

    def ended(self, name):
        pass

    def best(self, text):
        pass


@pytest.fixture
def sweep(tmp_path, root):
    """A sweep of three rates, with one seed, none of which runs."""
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).write_bytes((root / name).read_bytes())
    asked = settings.validate(
        {"name": "s", "space": {"finetune.learning_rate": [1e-4, 1e-3, 1e-2]}, "metric": ["accuracy"]}
        | {"sampler": "grid"}
    )
    made = Sweep(SweepFolder.create(tmp_path, asked))
    made._search, made._display = made.folder.search(), Quiet()
    made._record = type("Record", (), {"id": "1", "metrics": lambda *_, **__: None})()
    return made


def end(sweep, **outcome):
    """Have the next trial end so; returns its result."""
    proposal = sweep._search.propose()
    request = sweep._request(proposal.number, proposal.point, 0, "validation")
    sweep._validations[proposal.number] = 2
    sweep._on_done(proposal, request, outcome)
    return sweep._search.results()[proposal.number]


def complete(value):
    """The outcome of a run that was measured."""
    return {
        "ended": "complete", "values": {"accuracy": value}, "costs": {}, "curves": {"finetune": []}, "held_out": "",
        "run": "1", "lock": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        ({"ended": "failed", "code": 11, "problems": ["needs 40 GB"]}, "left out"),
        ({"ended": "failed", "code": 8, "problems": ["not finite"]}, "failed"),
        ({"ended": "stopped", "code": 6, "problems": [PRUNED]}, "pruned"),
        ({"ended": "stopped", "code": 6, "problems": [INTERRUPTED]}, "running"),
    ],
)
def test_a_run_that_does_not_end_well_is_told_by_its_kind(sweep, outcome, state):
    """Too little memory is left out, divergence failed, a worse trial pruned, and an interrupted one is still to do."""
    assert end(sweep, **outcome).state == state
    again = sweep.folder.search().interrupted()
    assert [proposal.number for proposal in again] == ([0] if state == "running" else [])


def test_a_failure_that_may_be_mended_is_tried_again(sweep):
    """A full disk is no property of the point: the next start has the same number and point."""
    first = end(sweep, ended="failed", code=6, problems=["no space left on device"])
    assert first.state == "failed"
    (again,) = sweep.folder.search().interrupted()
    assert (again.number, again.point) == (0, first.point)


def test_a_sweep_in_which_everything_fails_ends(sweep):
    """The third trial in a row that fails, with none complete, is an error that names the problem."""
    failure = {"ended": "failed", "code": 6, "problems": ["finetune: no such column"]}
    end(sweep, **failure)
    end(sweep, **failure)
    with pytest.raises(StageFailedError, match="no such column"):
        end(sweep, **failure)


def test_a_complete_trial_has_its_metric(sweep):
    """Value and state are in the study; the outcome is kept for `resume`."""
    result = end(sweep, **complete(0.75))
    assert (result.state, result.value) == ("complete", 0.75)
    assert sweep.folder.outcome(0, 0)["values"] == {"accuracy": 0.75}


def test_an_unknown_metric_ends_the_sweep_with_those_that_there_are(sweep):
    """A typing mistake is not a trial that failed."""
    with pytest.raises(ParamsError, match=r"no metric `accuracy`.*; there are: f1"):
        end(sweep, **complete(0.75) | {"values": {"f1": 0.5}})


def test_the_same_words_open_the_same_sweep_and_others_are_refused(sweep, tmp_path):
    """Another space, or a params.yaml that was edited, is another sweep: its trials would not be comparable.

    One that was made before its settings had the key `last` judged the finetuned model.
    """
    asked, file = sweep.settings, sweep.folder.path / "settings.json"
    assert SweepFolder.create(tmp_path, asked).path == sweep.folder.path
    old = {key: value for key, value in json.loads(file.read_text(encoding="utf-8")).items() if key != "last"}
    file.write_text(json.dumps(old), encoding="utf-8")
    assert SweepFolder.create(tmp_path, asked).settings == SweepFolder.open(tmp_path, asked.name).settings == asked
    assert asked.stage == "finetune"
    with pytest.raises(ParamsError, match="other settings"):
        SweepFolder.create(tmp_path, asked.model_copy(update={"last": "align"}))
    with pytest.raises(ParamsError, match="other settings"):
        SweepFolder.create(tmp_path, asked.model_copy(update={"seeds": 2}))
    params = tmp_path / "params.yaml"
    params.write_text(params.read_text(encoding="utf-8").replace("epochs: 3", "epochs: 4"), encoding="utf-8")
    with pytest.raises(ParamsError, match=r"another params\.yaml"):
        SweepFolder.create(tmp_path, asked)
    assert not list(sweep.folder.path.glob("*.new.yaml"))


def test_a_value_is_a_metric_or_a_cost(sweep):
    """A cost as a second metric has the value of the run."""
    assert folders.value_of(complete(0.5) | {"costs": {"seconds": 3.0}}, "seconds") == 3.0


def test_the_page_shows_what_the_best_reaches_and_what_trials_cost(sweep):
    """The metric on the test rows with its interval, seconds and memory; no path of a file of ours."""
    outcome = complete(0.75) | {"costs": {"seconds": 3.0, "memory_gb": 1.25}}
    end(sweep, **outcome)
    estimate = {"value": 0.625, "low": 0.5, "high": 0.75}
    tests = sweep.folder.path / "tests"
    tests.mkdir()
    content = {"number": 0, "files": ["/somewhere/secret.json"], "estimate": estimate}
    (tests / "0.json").write_text(json.dumps(content), encoding="utf-8")
    text = report.write(report.view(sweep.folder)).read_text(encoding="utf-8")
    assert "secret.json" not in text
    assert "0.625 <small>0.5 to 0.75</small>" in text
    assert "GB of memory" in text
    assert "1.25" in text
