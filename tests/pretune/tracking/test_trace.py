from __future__ import annotations

import io
import os
import shutil

import pytest
from rich.console import Console

from pretune.errors import NotFoundInRecordsError
from pretune.tracking.database import Database
from pretune.tracking.records import MlflowStore, Records
from pretune.tracking.trace import Tracer, tree

pytestmark = pytest.mark.slow  # imports MLflow
RAW, PREPARED, MODEL, TUNED, TWICE, OLD = (f"{letter * 8}{number}" for number, letter in enumerate("abcdef", 1111))
LOCKED = {"data/raw": RAW, "data/prepared": PREPARED, "models/pretrained": MODEL, "models/finetuned": TUNED}
HISTORY = [  # name, inputs, outputs, and what is unusual; the oldest first
    ("ingest", {"mine.csv": "99999999"}, {"data/raw": RAW}, {}),
    ("prepare", {"data/raw": RAW}, {"data/prepared": PREPARED}, {}),
    ("pretrain", {"data/prepared": PREPARED}, {"models/pretrained": MODEL}, {}),
    ("finetune", {"models/pretrained": MODEL, "data/prepared": PREPARED}, {"models/finetuned": TUNED}, {"model": True}),
    ("evaluate", {"models/finetuned": TUNED}, {}, {"git.dirty": "true"}),
    ("prepare", {"data/raw": RAW}, {"data/prepared": PREPARED}, {"status": "FAILED"}),
    ("prepare", {"data/raw": RAW}, {"data/prepared": PREPARED}, {"pretune.status": "cached", "source": 1}),
    ("pipeline", {}, {}, {"pretune.status": ""}),
    ("first", {}, {"data/twice": TWICE}, {}),
    ("second", {}, {"data/twice": TWICE}, {}),
    ("ingest", {}, {"data/raw": OLD}, {}),
    *[("reader", {"data/raw": OLD}, {"data/read": f"{number:08}-read"}, {}) for number in range(5)],
]


@pytest.fixture(scope="module")
def history(tmp_path_factory, empty_database):
    """A workspace with HISTORY in MLflow, and the ids of its runs."""
    from mlflow.entities import LoggedModelOutput, Param, RunTag

    from pretune.tracking.client import connect

    root = tmp_path_factory.mktemp("history")
    shutil.copy(empty_database, root / "mlflow.db")
    client, experiment = connect(root, root / ".pretune")
    runs, model = [], ""
    for number, (name, inputs, outputs, unusual) in enumerate(HISTORY):
        tags = {"pretune.status": "executed", "pretune.id": f"journal-{number:04}", "git.commit": f"commit-{number}"}
        tags |= {f"dvc.in.{path}": md5 for path, md5 in inputs.items()} | {
            f"dvc.out.{p}": md5 for p, md5 in outputs.items()
        }
        tags |= {"pretune.source_run": runs[unusual["source"]]} if "source" in unusual else {}
        tags |= {key: value for key, value in unusual.items() if "." in key}
        run = client.create_run(experiment, start_time=1000 + number, run_name=name, tags=tags).info.run_id
        params = [Param("seed", str(number)), Param("same", "1")]
        client.log_batch(run, params=params, tags=[RunTag("mlflow.parentRunId", runs[0])] if runs else [])
        log_inputs(client, run, inputs)
        if "model" in unusual:
            model = client.create_logged_model(experiment, name, run).model_id
            client.log_outputs(run, [LoggedModelOutput(model, 0)])
        client.set_terminated(run, unusual.get("status", "FINISHED"))
        runs.append(run)
    return root, runs, model


def log_inputs(client, run, inputs):
    """Data sets as the sender records them."""
    from mlflow.entities import Dataset, DatasetInput

    client.log_inputs(run, [DatasetInput(Dataset(path, md5, "dvc", "{}"), []) for path, md5 in inputs.items()])


@pytest.fixture(params=[Database, MlflowStore])
def records(request, history, monkeypatch):
    """The records, read from the database itself or through MLflow's client: they answer alike."""
    root = history[0]
    if request.param is MlflowStore:
        monkeypatch.setattr(Records, "_database", lambda _: None)
    found = Records(root, root / ".pretune")
    assert isinstance(found._store, request.param)
    return found


def makers(found):
    """Stage names from a model back to its source."""
    names, pending = [], [found["made"][0]["made_by"]]
    while pending:
        maker = pending.pop()
        if maker:
            names.append(maker["stage"])
            pending += [source["made_by"] for source in maker["inputs"]]
    return names


@pytest.mark.parametrize(
    "what", ["models/finetuned", "./models/finetuned/", TUNED, TUNED[:8], "run", "journal-0003", "model"]
)
def test_a_model_leads_back_to_data_parameters_and_commit(what, records, history):
    """By path, hash, run, journal or model id, in full or by eight characters: the same story."""
    _, runs, model = history
    found = Tracer(records, LOCKED).trace({"run": runs[3][:8], "model": model[:10]}.get(what, what))
    (made,) = found["made"]
    assert (made["path"], made["md5"]) == ("models/finetuned", TUNED)
    assert makers(found)[0] == "finetune"
    assert set(makers(found)) == {"ingest", "prepare", "pretrain", "finetune"}
    assert made["made_by"]["commit"] == "commit-3"
    assert made["made_by"]["params"] == {"seed": "3", "same": "1"}


def test_data_leads_forward_to_every_model(records, history):
    """Every run that read it or anything made of it, each once."""
    (made,) = Tracer(records, LOCKED).trace("data/raw")["made"]
    assert sorted(user["stage"] for user in made["used_by"]) == ["evaluate", "finetune", "prepare", "pretrain"]
    assert [user["models"] for user in made["used_by"] if user["stage"] == "finetune"] == [[history[2]]]
    assert made["left_out"] == []


def test_of_many_runs_that_read_the_same_the_newest_are_told_and_how_many_there_are_besides(records):
    """Ten thousand models of the same data are no reason to read ten thousand runs."""
    (made,) = Tracer(records, LOCKED, limit=2).trace(OLD)["made"]
    assert [user["params"]["seed"] for user in made["used_by"]] == ["15", "14"]
    counted = 3 if isinstance(records._store, Database) else None
    assert made["left_out"] == [{"path": "data/raw", "md5": OLD, "runs": counted}]
    (made,) = Tracer(records, LOCKED, limit=None).trace(OLD)["made"]
    assert (len(made["used_by"]), made["left_out"]) == (5, [])


def test_the_users_of_many_data_are_those_of_each(records, monkeypatch):
    """Asked for together they are the same runs, also where a request holds too few, or the newest are a day old."""
    data = [*LOCKED.items(), ("data/raw", OLD), ("data/raw", "0" * 32), *((f"more/{n}", TUNED) for n in range(9))]
    each = [[run.run_id for run in records.users(*one, limit=2).records] for one in data]
    assert sum(map(len, each)) > 5
    for page, recent in ((1000, 0), (3, 0), (1000, 10**15)):
        monkeypatch.setattr("pretune.tracking.records.PAGE", page)
        monkeypatch.setattr("pretune.tracking.records.RECENT", recent)
        found = records.users_of_all(data, 2)
        assert [[run.run_id for run in users.records] for users in found] == each
        assert found[len(LOCKED)].total != 2, "more than two have read it"


def test_only_runs_that_executed_and_finished_made_something(records, history):
    """A failed or a cached run with the same hashes is not the maker."""
    (made,) = Tracer(records, LOCKED).trace("data/prepared")["made"]
    assert made["made_by"]["run"] == history[1][1]


def test_of_several_makers_the_latest_is_named(records):
    """The same bytes were made twice: the later run is the one to look at."""
    (made,) = Tracer(records, LOCKED | {"data/twice": TWICE}).trace("data/twice")["made"]
    assert made["made_by"]["stage"] == "second"


def test_a_cached_run_leads_to_the_run_that_made_its_result(records, history):
    """Asked about a run that found its result in the cache, the answer is the run that did the work."""
    assert Tracer(records, LOCKED).trace(history[1][6])["run"] == history[1][1]


@pytest.mark.parametrize(("md5", "path"), [(OLD, "data/raw"), ("00000004-read", "data/read")])
def test_an_older_result_is_found_by_its_hash(records, md5, path):
    """What dvc.lock no longer names is still known to the records, if a run read it or it lies where outputs lie."""
    (made,) = Tracer(records, LOCKED | {"data/read": "77777777"}).trace(md5[:8])["made"]
    assert (made["path"], made["md5"]) == (path, md5)
    assert made["made_by"]


def test_a_file_that_nobody_made_is_no_error(records):
    """A user's own data has no maker, and that is said."""
    (made,) = Tracer(records, LOCKED | {"mine.csv": "ffffffff6666"}).trace("mine.csv")["made"]
    assert (made["made_by"], made["used_by"]) == (None, [])


def test_an_unknown_name_gets_the_nearest(records):
    """A misspelt path: a suggestion and an example."""
    with pytest.raises(NotFoundInRecordsError, match=r"did you mean models/finetuned\?"):
        Tracer(records, LOCKED).trace("models/finetund")


@pytest.mark.parametrize("what", ["aaaa", "", "journal", TUNED[:7], "%%%%%%%%", "' OR 1=1 --"])
def test_a_few_characters_do_not_suffice(records, what):
    """Less than eight characters of a hash could mean anything; what is no id asks for nothing."""
    with pytest.raises(NotFoundInRecordsError):
        Tracer(records, LOCKED).trace(what)


def test_a_run_without_outputs_says_so(records, history):
    """A pipeline's own run wrote nothing itself."""
    with pytest.raises(NotFoundInRecordsError, match=r"\(pipeline\) wrote no output"):
        Tracer(records, LOCKED).trace(history[1][7])


def test_the_newest_of_a_stage_and_the_children_of_a_run_are_found(records, history):
    """The newest first; children in their order."""
    assert [each.params["seed"] for each in records.newest("reader", 2)] == ["15", "14"]
    children = records.children(records.get(history[1][0]))
    assert [each.run_id for each in children] == history[1][1:]
    assert records.get("0" * 32) is None


def test_the_tree_shows_the_whole_way_and_the_params_that_are_others_now(records):
    """For a terminal: each stage once, its commit, and of its params those that differ, or all."""
    found = Tracer(records, LOCKED).trace("models/finetuned")
    differing, whole = printed(tree(found, {"same": "1", "seed": "9"})), printed(tree(found, None))
    for word in ("models/finetuned", "finetune  run", "data/raw", "evaluate", "+ changes.patch", "see above"):
        assert word in differing
    assert "seed=3  (now 9)" in differing
    assert "same=1" not in differing
    assert "same=1" in whole


def printed(found):
    """A tree as text."""
    out = io.StringIO()
    Console(file=out, width=200).print(found)
    return out.getvalue()


def test_a_database_that_looks_otherwise_is_left_to_mlflow(history, tmp_path):
    """Another experiment, a file that is no database: MLflow's own client says what is so."""
    root = history[0]
    os.environ["MLFLOW_EXPERIMENT_NAME"] = "another"
    assert isinstance(Records(root, tmp_path)._store, MlflowStore)
