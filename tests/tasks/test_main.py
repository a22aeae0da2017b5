from __future__ import annotations

import json
import os
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from pretune.errors import DataError, GraphError, TerminatedError
from pretune.lineage.graph import Workspace
from pretune.tracking import journal
from tasks import __main__ as tasks


def last(state):
    """Events of the only journal."""
    (path,) = journal.folder(state).glob("*.jsonl")
    return journal.read(path, 0)[0]


def test_every_stage_has_its_function(root):
    """The stage `x` of dvc.yaml is the function `x` of tasks/x.py."""
    for name in Workspace(root).nodes:
        function = tasks.function(name)
        assert (function.__name__, function.__module__) == (name, f"tasks.{name}")


def test_a_stage_without_its_file_is_an_error_with_a_next_step():
    """A stage that dvc.yaml has and tasks/ lacks: which file to write."""
    with pytest.raises(GraphError, match=r"there is no tasks/nothing\.py") as caught:
        tasks.function("nothing")
    assert caught.value.next_step == "write tasks/nothing.py"


@pytest.mark.parametrize(("arguments", "code"), [([], 2), (["--help"], 0), (["a", "b"], 2), (["--wrong"], 2)])
def test_the_usage_lists_the_stages(project, capsys, arguments, code):
    """Without a stage: what to type, and which stages there are."""
    assert tasks.main(arguments) == code
    shown = capsys.readouterr().out
    assert "usage: python -m tasks STAGE" in shown
    assert all(name in shown for name in ("ingest", "prepare", "finetune", "scratch"))


def test_a_misspelt_stage_is_told_without_a_traceback(project, capsys):
    """Message, next command, exit code 3, and the same in last-error.json."""
    assert tasks.main(["prepar"]) == 3
    shown = capsys.readouterr().err
    assert "error: no stage `prepar` in dvc.yaml (did you mean prepare?)" in shown
    assert "next:  pretune plan" in shown
    stored = json.loads((project / ".pretune" / "last-error.json").read_text(encoding="utf-8"))
    assert (stored["kind"], stored["exit_code"]) == ("GraphError", 3)


def test_outside_of_a_workspace_is_told_without_a_traceback(tmp_path, monkeypatch, capsys):
    """No dvc.yaml anywhere above: exit code 9."""
    monkeypatch.chdir(tmp_path)
    assert tasks.main(["prepare"]) == 9
    assert "no dvc.yaml" in capsys.readouterr().err


def test_wrong_parameters_stop_a_stage_before_it_is_recorded(project, capsys):
    """All problems are listed, no run begins, exit code 3."""
    text = (project / "params.yaml").read_text(encoding="utf-8")
    text = text.replace("seed: 0", "seed: -1").replace("epochs: 15", "epochs: -1")
    (project / "params.yaml").write_text(text, encoding="utf-8")
    assert tasks.main(["ingest"]) == 3
    shown = capsys.readouterr().err
    assert "error: seed:" in shown
    assert "error: finetune.epochs:" in shown
    assert not (project / ".pretune" / "journal").exists()


def test_a_mistake_goes_to_the_flow_as_a_message(tmp_path, capsys):
    """Under a flow the error is also printed as a message that it can read."""
    from pretune.runtime import progress

    os.environ[progress.PIPE] = "1"
    tasks.report(tmp_path, DataError(["one", "two"], "fix"))
    line = next(line for line in capsys.readouterr().out.split("\n") if line.startswith(progress.MARK))
    assert progress.message(line)["problems"] == ["one", "two"]


def wrapped(error):
    """What a package makes of an error that interrupts its import."""
    try:
        raise ModuleNotFoundError("could not import") from error
    except ModuleNotFoundError as made:
        return made


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "FINISHED"), (DataError("x"), "FAILED"), (RuntimeError("x"), "FAILED"), (KeyboardInterrupt(), "KILLED"),
     (TerminatedError("x"), "KILLED"), (wrapped(TerminatedError("x")), "KILLED"), (wrapped(OSError()), "FAILED")],
)  # fmt: skip
def test_the_record_ends_as_the_stage_did(project, error, status):
    """Finished, failed or killed; status, time, metrics and outputs are remembered for the next plan and the report."""
    state = project / ".pretune"
    if error is None:
        with tasks.recorded(project, state, "prepare", parent="the-parent") as run:
            run.metrics({"rows": 3})
            run.output("prepared.txt", "0123")
    else:
        with pytest.raises(type(error)), tasks.recorded(project, state, "prepare", parent="the-parent") as run:
            raise error
    events = last(state)
    assert events[-1] == {"event": "end", "time": events[-1]["time"], "status": status}
    facts = json.loads((state / "stages" / "prepare.json").read_text(encoding="utf-8"))
    assert (facts["status"], facts["parent"], facts["run"]) == (status, "the-parent", run.id)
    assert facts["seconds"] >= 0
    if error is None:
        assert facts["outputs"] == {"prepared.txt": "0123"}
        assert facts["metrics"].keys() == {"rows", "seconds"}


def test_a_stop_that_interrupts_an_import_is_told_as_one(project, monkeypatch, capsys):
    """With the exit code of a stop, and no traceback of the package that was imported."""

    def perform(*_, **__):
        raise wrapped(TerminatedError("stopped by SIGTERM", "again"))

    monkeypatch.setattr(tasks, "perform", perform)
    assert tasks.main(["ingest"]) == TerminatedError.exit_code
    assert "stopped by SIGTERM" in capsys.readouterr().err


def test_energy_is_measured_of_stages_that_train(project, params, monkeypatch):
    """Of those that dvc.yaml gives `launch`: on as many cards as there are processes."""
    asked = []
    monkeypatch.setattr(tasks.monitoring, "energy", lambda _, processes: asked.append(processes) or nullcontext())
    launch = params.launch.model_copy(update={"processes": 3})
    for node in Workspace(project).nodes.values():
        with tasks.monitored(SimpleNamespace(metrics=None), node, params.model_copy(update={"launch": launch})):
            pass
    assert asked == [3] * sum("launch.processes" in node.params for node in Workspace(project).nodes.values())
    assert asked


def test_a_dirty_workspace_leaves_its_patch_on_the_run(project):
    """What leads from the commit to the files is kept with the record."""
    (project / "dvc.yaml").write_text("stages: {}\n", encoding="utf-8")
    with tasks.recorded(project, project / ".pretune", "prepare", parent="the-parent"):
        pass
    (patch,) = [event for event in last(project / ".pretune") if event["event"] == "text"]
    assert patch["name"] == "changes.patch"
    assert "+stages: {}" in patch["content"]


def test_no_stage_starts_on_rows_that_cannot_serve_the_objective(done, capsys):
    """What the objective lacks is known once `ingest` has ended: no tokenizer is learnt, no model trained."""
    (done / "data" / "raw").mkdir(parents=True)
    counts = {"columns": {"text": 9}, "left_out": {"stars": 9}, "splits": {}}
    (done / "data" / "raw" / "counts.json").write_text(json.dumps(counts), encoding="utf-8")
    for stage in ("prepare", "finetune"):
        assert tasks.main([stage]) == 4
        shown = capsys.readouterr().err
        assert "9 of 9 rows have no label" in shown
        assert "stars" in shown
    assert not (done / ".pretune" / "journal").exists()
