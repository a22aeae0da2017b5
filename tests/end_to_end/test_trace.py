from __future__ import annotations

import pytest

pytestmark = pytest.mark.slow


def walk(maker):
    """Every run on the way back from something, itself first."""
    if maker:
        yield maker
        for source in maker["inputs"]:
            yield from walk(source["made_by"])


def md5(clone, path):
    """The hash that dvc.lock has for an output."""
    return next(out["md5"] for entry in clone.locked().values() for out in entry["outs"] if out["path"] == path)


def test_model_leads_back_to_data_params_and_commit(finished):
    """By path, by the beginning of a hash and by run id: the same way back, down to the user's own file."""
    children = finished.children(finished.parents()[0])
    commit = finished.git("rev-parse", "HEAD").strip()
    model, run_id = md5(finished, "models/finetuned"), children["finetune"].info.run_id
    for what in ("models/finetuned/", model[:8], run_id):
        made = {item["path"]: item for item in finished.report("trace", what)["made"]}
        assert made["models/finetuned"]["md5"] == model, what
        way = list(walk(made["models/finetuned"]["made_by"]))
        assert {run["stage"] for run in way} == {"finetune", "prepare", "pretrain", "ingest"}, what
        assert {run["commit"] for run in way} == {commit}
        assert all(run["run"] == children[run["stage"]].info.run_id for run in way)
        assert way[0]["params"]["finetune.epochs"] == "2"
        sources = {source["path"]: source for run in way for source in run["inputs"] if not source["made_by"]}
        assert set(sources) == {"documents.jsonl"}


def test_data_leads_forward_to_every_model(finished):
    """From the snapshot and from the user's file forward: every stage and all three models."""
    for what in ("data/raw", "documents.jsonl"):
        (item,) = finished.report("trace", what)["made"]
        used = {run["stage"]: run for run in item["used_by"]}
        assert {"prepare", "pretrain", "finetune", "scratch", "evaluate"} <= set(used)
        written = {path for run in used.values() for path in run["outputs"]}
        assert {"models/pretrained", "models/finetuned", "models/scratch", "reports/metrics.json"} <= written
        assert all(used[stage]["models"] for stage in ("pretrain", "finetune", "scratch"))


def test_trace_for_people_names_the_chain(finished):
    """Without --json the tree names each stage, file and commit on the way."""
    printed = finished.pretune("trace", "models/finetuned")
    commit = finished.git("rev-parse", "HEAD").strip()
    for word in ("made by", "finetune", "pretrain", "prepare", "ingest", "documents.jsonl", "used by", commit[:12]):
        assert word in printed


@pytest.mark.parametrize(
    ("command", "code"),
    [("plan --quick", 0), ("why finetune", 0), ("trace models/finetuned", 0), ("doctor", 0), ("compare no-run", 4)],
)
def test_a_command_says_the_same_in_a_process_of_its_own(command, code, finished):
    """The tests ask processes that are forked from a warm one; what users start answers no other way."""
    arguments = ("-m", "cli.app", *command.split())
    assert finished.alone(*arguments, code=code) == finished.run(*arguments, code=code)


def test_reports_parse_and_find_nothing_wrong(finished):
    """`plan`, `why`, `trace` and `doctor` give JSON with --json; in a finished clone there is nothing to do or fix."""
    plan = finished.report("plan")
    assert plan[0]["stage"] == "ingest"
    assert {decision["action"] for decision in plan} == {"skip"}
    assert all(decision["last_seconds"] is not None for decision in plan)
    assert finished.report("why", "evaluate") == {"params": {}, "deps": {}, "code": {}, "outs": {}, "command": False}
    assert finished.report("trace", "reports/metrics.json")["made"][0]["made_by"]["stage"] == "evaluate"
    findings = finished.report("doctor")
    assert [f for f in findings if f["state"] != "ok"] == []
    assert {"params.yaml", "dvc.yaml", "tracking", "locks", "stale runs", "disk"} <= {f["what"] for f in findings}
    assert "nothing changed" in finished.pretune("why", "evaluate")
    assert "0 of 7 stages to run" in finished.pretune("plan")


def test_doctor_finds_and_fixes(copy):
    """A run that nobody works on and a torn lock file of DVC are found and fixed; a number in quotes is found."""
    client, experiment = copy.client()
    run = client.create_run(experiment, run_name="left", tags={"pretune.id": "gone"})
    (copy.root / ".dvc" / "tmp").mkdir(exist_ok=True)
    (copy.root / ".dvc" / "tmp" / "rwlock").write_text('{"/half', encoding="utf-8")
    problems = {f["what"]: f for f in copy.report("doctor", code=10) if f["state"] == "problem"}
    assert set(problems) == {"stale runs", "dvc lock"}
    assert all(finding["fix"] for finding in problems.values())
    assert {f["what"] for f in copy.report("doctor", "--fix") if f["state"] == "fixed"} == set(problems)
    assert client.get_run(run.info.run_id).info.status == "KILLED"
    assert copy.dvc_is_clean()
    copy.set(ingest__source="12e5")
    (finding,) = [f for f in copy.report("doctor", code=10) if f["state"] == "problem"]
    assert "ingest.source" in finding["detail"]
    assert "'12e5'" in finding["detail"]
