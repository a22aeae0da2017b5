from __future__ import annotations

import json

import pytest

from pretune.config import params
from pretune.errors import DataError, InputsChangedError, UndeclaredInputError
from pretune.lineage.graph import Workspace, stage_key, state_dir
from pretune.runtime import progress
from pretune.runtime.events import Record, Validation
from pretune.runtime.progress import PipeProgress
from pretune.runtime.stage import PublishedStage
from pretune.tracking import journal
from pretune.tracking.journal import Run


@pytest.fixture
def begin(done):
    """A function that gives a stage of the project what its function would be given."""
    runs = []

    def stage(name="prepare"):
        runs.append(Run(state_dir(done), name, tags={}))
        settings = params.load(done / "params.yaml")
        workspace = Workspace(done)
        node, entry = workspace.node(name), workspace.entry(name)
        return PublishedStage(done, node, entry, params=settings, run=runs[-1], progress=PipeProgress())

    yield stage
    for run in runs:
        run.end("FINISHED")


def events(stage, kind):
    """Events of one kind in the stage's journal."""
    return [event for event in journal.read(stage.run.path, 0)[0] if event["event"] == kind]


def tree(folder):
    """{path: content} of every file that is not a tool's own."""
    kept = (".git", ".dvc", ".pretune")
    files = [path for path in folder.rglob("*") if path.is_file() and path.relative_to(folder).parts[0] not in kept]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_declared_input_is_handed_out(begin, done):
    """`dep` takes the path of dvc.yaml and answers with the file."""
    assert begin().dep("raw.txt") == done / "raw.txt"


def test_an_undeclared_input_is_refused(begin):
    """A file that exists but is not declared: an error that says what to add."""
    with pytest.raises(UndeclaredInputError, match=r"stage prepare reads source\.txt") as caught:
        begin().dep("source.txt")
    assert "`source.txt` under stages.prepare.deps" in caught.value.next_step


def test_an_undeclared_output_is_refused(begin):
    """Writing elsewhere than declared: an error that says what to add."""
    with pytest.raises(UndeclaredInputError, match=r"stage prepare writes elsewhere\.txt") as caught:
        begin().out("elsewhere.txt")
    assert "under stages.prepare.outs" in caught.value.next_step


def test_undeclared_parameters_are_refused(begin):
    """Only the sections that dvc.yaml lists for the stage can be read."""
    stage = begin()
    assert stage.params.seed == 0
    assert stage.params.prepare.train_rows == 300
    with pytest.raises(UndeclaredInputError, match="finetune"):
        _ = stage.params.finetune


def test_a_missing_input_names_what_makes_it(begin, done):
    """A declared input that is gone: the next step is to run the pipeline up to here."""
    stage = begin()
    (done / "raw.txt").unlink()
    with pytest.raises(DataError, match=r"raw\.txt is missing") as caught:
        stage.dep("raw.txt")
    assert caught.value.next_step.startswith("pretune run prepare")


def test_an_output_appears_when_the_stage_succeeds_and_not_before(begin, done):
    """While a stage works, the old output is whole; `publish` puts the new one in its place."""
    stage = begin()
    stage.out("prepared.txt").write_text("new\n", encoding="utf-8")
    assert (done / "prepared.txt").read_text(encoding="utf-8") == "hello\n"
    stage.publish()
    assert (done / "prepared.txt").read_text(encoding="utf-8") == "new\n"
    assert not [name for name in tree(done) if "partial" in name]


def test_a_folder_replaces_a_folder_whole(begin, done):
    """No file of an earlier output is left among the new ones."""
    (done / "prepared.txt").unlink()
    (done / "prepared.txt").mkdir()
    (done / "prepared.txt" / "old").touch()
    stage = begin()
    folder = stage.out("prepared.txt")
    folder.mkdir()
    (folder / "new").touch()
    stage.publish()
    assert [path.name for path in (done / "prepared.txt").iterdir()] == ["new"]


def test_a_failed_stage_leaves_everything_as_it_was(begin, done):
    """`discard` removes what was half written; the workspace is byte for byte the same."""
    before = tree(done)
    stage = begin()
    stage.out("prepared.txt").write_text("half", encoding="utf-8")
    stage.discard()
    assert tree(done) == before


def test_what_a_killed_stage_left_is_cleared_away(begin, done):
    """The next run of the stage does not find half an output of the one before."""
    left = begin().out("prepared.txt")
    left.mkdir()
    (left / "half").touch()
    assert not begin().out("prepared.txt").exists()


def test_an_output_that_was_not_written_is_an_error(begin, done):
    """A stage that forgets a declared output fails, and nothing is published."""
    before = tree(done)
    with pytest.raises(DataError, match=r"stage prepare did not write prepared\.txt"):
        begin().publish()
    assert tree(done) == before


def test_a_parameter_edited_meanwhile_stops_the_stage_and_keeps_its_work(begin, done):
    """DVC would record the new value as what the result was made from: the result is put aside instead."""
    stage = begin()
    stage.out("prepared.txt").write_text("made with seed 0\n", encoding="utf-8")
    text = (done / "params.yaml").read_text(encoding="utf-8")
    (done / "params.yaml").write_text(text.replace("seed: 0", "seed: 7"), encoding="utf-8")
    with pytest.raises(InputsChangedError, match="params seed changed from 0 to 7 while prepare was running") as caught:
        stage.publish()
    stage.discard()
    assert (done / "prepared.txt").read_text(encoding="utf-8") == "hello\n"
    (kept,) = (done / ".pretune" / "kept").iterdir()
    assert (kept / "prepared.txt").read_text(encoding="utf-8") == "made with seed 0\n"
    assert str(kept.relative_to(done)) in caught.value.next_step


def test_a_file_edited_meanwhile_stops_the_stage(begin, done):
    """Code and data count as well as parameters."""
    stage = begin("ingest")
    stage.out("raw.txt").write_text("x", encoding="utf-8")
    (done / "pretune" / "helper.py").write_text("HELP = 3\n", encoding="utf-8")
    with pytest.raises(InputsChangedError, match=r"pretune/helper\.py changed while ingest"):
        stage.publish()


def test_an_input_removed_meanwhile_stops_the_stage(begin, done):
    """A dependency that is gone at the end: the same error, and the work is kept."""
    stage = begin()
    stage.out("prepared.txt").write_text("x", encoding="utf-8")
    (done / "raw.txt").unlink()
    with pytest.raises(InputsChangedError, match=r"raw\.txt"):
        stage.publish()


def test_a_parameter_that_the_stage_does_not_read_may_change(begin, done):
    """Editing another stage's settings disturbs nobody."""
    stage = begin()
    stage.out("prepared.txt").write_text("x", encoding="utf-8")
    text = (done / "params.yaml").read_text(encoding="utf-8")
    (done / "params.yaml").write_text(text.replace("epochs: 15", "epochs: 1"), encoding="utf-8")
    stage.publish()


def test_inputs_and_outputs_are_recorded_with_dvcs_hashes(begin, done):
    """The run names params, data (not code), stage key, and every output."""
    stage = begin("ingest")
    stage.log_inputs()
    stage.out("raw.txt").write_text("hello\n", encoding="utf-8")
    stage.publish()
    locked = Workspace(done).locked_outputs()
    recorded = events(stage, "params")[0]["values"]
    assert recorded["ingest.source"] == "pydocs"
    assert {name.split(".")[0] for name in recorded} == {"ingest"}
    assert [(event["path"], event["md5"]) for event in events(stage, "input")] == [("source.txt", locked["source.txt"])]
    tags = {key: value for event in events(stage, "tags") for key, value in event["values"].items()}
    assert tags["dvc.out.raw.txt"] == locked["raw.txt"]
    assert tags["pretune.stage_key"] == stage.key == stage_key(Workspace(done).entry("ingest"))


def test_what_making_an_input_took_is_known_while_it_is_the_last(begin, done):
    """The metrics of the run that made these bytes; nothing of a run that made others, or where none is remembered."""
    assert begin().metrics_of("raw.txt", "ingest") == {}
    file = state_dir(done) / "stages" / "ingest.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    made = Workspace(done).entry("prepare")["deps"]["raw.txt"]
    for md5, expected in ((made, {"seconds": 3.0}), ("0" * 32, {})):
        file.write_text(json.dumps({"outputs": {"raw.txt": md5}, "metrics": {"seconds": 3.0}}), encoding="utf-8")
        assert begin().metrics_of("raw.txt", "ingest") == expected


def test_a_model_is_recorded_with_its_published_place(begin, done):
    """The record points to the output, not to the temporary file that it was written to."""
    stage = begin()
    stage.out("prepared.txt").write_text("weights", encoding="utf-8")
    stage.model("prepared.txt", examples=[{"text": "a text"}])
    assert not events(stage, "model")
    stage.publish()
    (event,) = events(stage, "model")
    assert event["path"] == str(done / "prepared.txt")
    assert event["md5"] == Workspace(done).outputs("prepare")["prepared.txt"]
    assert event["examples"] == [{"text": "a text"}]


def test_training_is_reported_as_metrics_over_steps(begin, capsys):
    """Each record of the loop becomes metrics of its step, and a line of progress; what is not known is left out."""
    stage = begin()
    report = stage.reporter(20)
    report(Record(10, 2.5, 1e-3, 50.0, 3000.0))
    report(Record(20, 1.5, 0.0, 50.0, 287.4, utilisation=0.5))
    first, second = events(stage, "metrics")
    assert (first["step"], first["values"]["loss"], first["values"]["tokens_per_second"]) == (10, 2.5, 3000.0)
    assert "utilisation" not in first["values"]
    assert (second["step"], second["values"]["utilisation"]) == (20, 0.5)
    last = progress.message(capsys.readouterr().out.strip("\n").split("\n")[-1])
    assert (last["done"], last["total"], last["note"][:10]) == (20, 20, "loss 1.500")
    assert "  287 tok/s  50 % util  " in last["note"]


def test_what_validation_found_is_reported_beside(begin, capsys):
    """Metrics with names of their own, so that no curve mixes the two; the flow hears of it; progress does not jump."""
    stage = begin()
    stage.reporter(20)(Validation(10, {"loss": 2.0, "accuracy": 0.75}))
    (event,) = events(stage, "metrics")
    assert event["step"] == 10
    assert event["values"] == {"validation_loss": 2.0, "validation_accuracy": 0.75}
    message = progress.message(capsys.readouterr().out)
    assert message == {"event": "validation", "step": 10, "metrics": {"loss": 2.0, "accuracy": 0.75}}


def test_several_models_of_one_stage_are_told_apart(begin, capsys):
    """Metrics have the model's name before theirs and its own steps; progress is that of the whole stage."""
    stage = begin()
    report = stage.reporter(40, before=20, name="scratch on 0.5")
    report(Validation(20, {"loss": 2.0}))
    report(Record(20, 1.5, 0.0, 50.0, 3000.0))
    validated, trained = events(stage, "metrics")
    assert validated["values"] == {"scratch on 0.5.validation_loss": 2.0}
    assert (trained["step"], trained["values"]["scratch on 0.5.loss"]) == (20, 1.5)
    last = progress.message(capsys.readouterr().out.strip("\n").split("\n")[-1])
    assert (last["done"], last["total"], last["note"][:26]) == (40, 40, "scratch on 0.5  loss 1.500")


def edit(path, old, new):
    """Replace a text in a file."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


@pytest.mark.parametrize(
    ("old", "new", "the_same"),
    [
        ("processes: 1", "processes: 2", False),
        ("nodes: 1", "nodes: 2", False),
        ("127.0.0.1:29500", "elsewhere:29501", True),
        ("engine: local", "engine: slurm", True),
    ],
)
def test_training_goes_on_however_it_is_launched(begin, done, old, new, the_same):
    """Their number makes another stage key, the way to start them does not; no checkpoint changes its place."""
    before = begin("finetune")
    edit(done / "params.yaml", old, new)
    after = begin("finetune")
    assert (before.key == after.key) == the_same
    assert before.checkpoints == after.checkpoints


@pytest.mark.parametrize(
    ("file", "old", "new"), [("params.yaml", "epochs: 15", "epochs: 16"), ("prepared.txt", "hello", "other data")]
)
def test_training_on_other_inputs_begins_anew(begin, done, file, old, new):
    """Another setting or other data: no checkpoint of the old ones is found."""
    before = begin("finetune").checkpoints
    edit(done / file, old, new)
    assert begin("finetune").checkpoints != before


def test_checkpoints_lie_in_the_state_and_apart(begin, done):
    """A folder for each stage key, out of the way of outputs."""
    places = {begin(name).checkpoints for name in ("ingest", "prepare", "finetune")}
    assert len(places) == 3
    assert {place.parent for place in places} == {state_dir(done) / "checkpoints"}


def test_success_removes_the_checkpoints(begin):
    """Nothing is left to resume, and nothing fills the disk; those of another stage stay."""
    stage, other = begin("finetune"), begin("prepare")
    for each in (stage, other):
        (each.checkpoints / "step-00000001").mkdir(parents=True)
        (each.checkpoints / "step-00000001" / "manifest.json").write_text("{}", encoding="utf-8")
    stage.out("tuned.txt").write_text("x", encoding="utf-8")
    stage.publish()
    assert not stage.checkpoints.exists()
    assert (other.checkpoints / "step-00000001" / "manifest.json").exists()


def test_failure_keeps_the_checkpoints(begin, done):
    """The user may fix what stopped the stage: it then continues where it stopped."""
    stage = begin("finetune")
    stage.checkpoints.mkdir(parents=True)
    with pytest.raises(DataError):
        stage.publish()
    stage.discard()
    assert begin("finetune").checkpoints.is_dir()
