from __future__ import annotations

import io

import pytest
from rich.console import Console

from pretune.errors import NotFoundInRecordsError
from pretune.trace import Tracer
from pretune.tracking import Record


def record(run_id, name, *, inputs=None, outputs=None, status="FINISHED", tags=None, models=(), started=0):
    """A stage's run as MLflow would give it back."""
    facts = {"pretune.status": "executed", "git.commit": f"commit-of-{run_id}", "git.dirty": "false"} | (tags or {})
    return Record(
        run_id=run_id, name=name, status=status, started=started, parent=None, tags=facts,
        params={"seed": "0"}, inputs=inputs or {}, outputs=outputs or {}, models=list(models),
    )  # fmt: skip


RAW, PREPARED, MODEL, TUNED = "aaaaaaaa1111", "bbbbbbbb2222", "cccccccc3333", "dddddddd4444"
RUNS = [
    record("run-ingest-1", "ingest", outputs={"data/raw": RAW}),
    record("run-prepare-1", "prepare", inputs={"data/raw": RAW}, outputs={"data/prepared": PREPARED}),
    record("run-pretrain-1", "pretrain", inputs={"data/prepared": PREPARED}, outputs={"models/pretrained": MODEL}),
    record("run-finetune-1", "finetune", inputs={"models/pretrained": MODEL, "data/prepared": PREPARED},
           outputs={"models/finetuned": TUNED}, models=["m-12345678"]),
]  # fmt: skip
LOCKED = {"data/raw": RAW, "data/prepared": PREPARED, "models/pretrained": MODEL, "models/finetuned": TUNED}


def makers(found):
    """Stage names from a model back to its source, along the first input that somebody made."""
    names, pending = [], [found["made"][0]["made_by"]]
    while pending:
        maker = pending.pop()
        if maker:
            names.append(maker["stage"])
            pending += [source["made_by"] for source in maker["inputs"]]
    return names


@pytest.mark.parametrize(
    "what", ["models/finetuned", "./models/finetuned/", TUNED, TUNED[:8], "run-finetune-1", "m-12345678"]
)
def test_a_model_leads_back_to_data_parameters_and_commit(what):
    """By path, hash, run or model id, in full or by eight characters: the same story."""
    found = Tracer(RUNS, LOCKED).trace(what)
    (made,) = found["made"]
    assert (made["path"], made["md5"]) == ("models/finetuned", TUNED)
    assert makers(found)[0] == "finetune"
    assert set(makers(found)) == {"ingest", "prepare", "pretrain", "finetune"}
    assert made["made_by"]["commit"] == "commit-of-run-finetune-1"
    assert made["made_by"]["params"] == {"seed": "0"}


def test_a_data_set_leads_forward_to_every_model():
    """Every run that read it or anything made of it, each once."""
    (made,) = Tracer(RUNS, LOCKED).trace("data/raw")["made"]
    assert [user["stage"] for user in made["used_by"]] == ["prepare", "pretrain", "finetune"]
    assert made["used_by"][-1]["models"] == ["m-12345678"]


def test_only_runs_that_executed_and_finished_made_something():
    """A failed or a cached run with the same hashes is not the maker."""
    noise = [
        record("run-failed-11", "prepare", outputs={"data/prepared": PREPARED}, status="FAILED"),
        record("run-cached-11", "prepare", outputs={"data/prepared": PREPARED}, tags={"pretune.status": "cached"}),
    ]
    (made,) = Tracer([*RUNS, *noise], LOCKED).trace("data/prepared")["made"]
    assert made["made_by"]["run"] == "run-prepare-1"


def test_of_several_makers_the_latest_is_named():
    """The same bytes were made twice: the later run is the one to look at."""
    again = record("run-prepare-2", "prepare", inputs={"data/raw": RAW}, outputs={"data/prepared": PREPARED}, started=9)
    (made,) = Tracer([*RUNS, again], LOCKED).trace("data/prepared")["made"]
    assert made["made_by"]["run"] == "run-prepare-2"


def test_a_cached_run_leads_to_the_run_that_made_its_result():
    """Asked about a run that found its result in the cache, the answer is the run that did the work."""
    tags = {"pretune.status": "cached", "pretune.source_run": "run-prepare-1"}
    cached = record("run-cached-11", "prepare", outputs={"data/prepared": PREPARED}, tags=tags)
    found = Tracer([*RUNS, cached], LOCKED).trace("run-cached-11")
    assert found["run"] == "run-prepare-1"


def test_an_older_result_is_found_by_its_hash():
    """What dvc.lock no longer names is still known to the records."""
    old = record("run-raw-0000", "ingest", outputs={"data/raw": "eeeeeeee5555"})
    (made,) = Tracer([old, *RUNS], LOCKED).trace("eeeeeeee")["made"]
    assert (made["path"], made["made_by"]["run"]) == ("data/raw", "run-raw-0000")


def test_a_file_that_nobody_made_is_no_error():
    """A user's own data has no maker, and that is said."""
    (made,) = Tracer(RUNS, LOCKED | {"mine.csv": "ffffffff6666"}).trace("mine.csv")["made"]
    assert (made["made_by"], made["used_by"]) == (None, [])


def test_an_unknown_name_gets_the_nearest():
    """A misspelt path: a suggestion and an example."""
    with pytest.raises(NotFoundInRecordsError, match=r"did you mean models/finetuned\?"):
        Tracer(RUNS, LOCKED).trace("models/finetund")


@pytest.mark.parametrize("what", ["aaaa", "", "run-", TUNED[:7]])
def test_a_few_characters_do_not_suffice(what):
    """Less than eight characters of a hash could mean anything."""
    with pytest.raises(NotFoundInRecordsError):
        Tracer(RUNS, LOCKED).trace(what)


def test_a_run_without_outputs_says_so():
    """A pipeline's own run wrote nothing itself."""
    with pytest.raises(NotFoundInRecordsError, match=r"\(pipeline\) wrote no output"):
        Tracer([*RUNS, record("run-parent-11", "pipeline")], LOCKED).trace("run-parent-11")


def test_records_may_come_one_by_one():
    """Any iterable of records will do."""
    assert Tracer(iter(RUNS), LOCKED).trace("run-finetune-1")["run"] == "run-finetune-1"


def test_the_tree_shows_the_whole_way():
    """For a terminal: each stage, its commit and parameters, and what used the result."""
    tracer = Tracer([*RUNS, record("run-dirty-1", "evaluate", inputs={"x": TUNED}, tags={"git.dirty": "true"})], LOCKED)
    out = io.StringIO()
    Console(file=out, width=200).print(tracer.tree(tracer.trace("models/finetuned")))
    text = out.getvalue()
    for word in ("models/finetuned", "finetune run run-finetune", "seed=0", "data/raw", "evaluate", "with changes"):
        assert word in text
