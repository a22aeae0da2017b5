from __future__ import annotations

import pytest

from pretune.lineage.graph import CODE, Workspace

pytestmark = pytest.mark.slow
HARMLESS = "\n# a remark\n"


def readers(stages, path):
    """The stages that declare `path`, or a folder that it is in."""
    return {name for name, stage in stages.items() if any(f"{path}/".startswith(f"{dep}/") for dep in stage["deps"])}


def test_edited_helper_makes_stale_exactly_what_imports_it(copy):
    """A changed line of code: the stages that declare its file or folder run, and what is after them; others do not.

    One file for each set of stages that some code is declared by.
    """
    stages = copy.stages()
    code = sorted({path for stage in stages.values() for path in stage["deps"] if path.startswith(CODE)})
    files = [path if path.endswith(".py") else f"{path}/__init__.py" for path in code]
    one_each = {frozenset(readers(stages, path)): path for path in files}
    assert len(one_each) > 6
    for path in one_each.values():
        original = (copy.root / path).read_text(encoding="utf-8")
        (copy.root / path).write_text(original + HARMLESS, encoding="utf-8")
        plan = {decision.stage: decision for decision in Workspace(copy.root).plan([])}
        named = {name for name, decision in plan.items() if any(path in reason for reason in decision.reasons)}
        assert named == readers(stages, path), path
        stale = {name for name, decision in plan.items() if decision.action == "run"}
        assert stale >= named, path
        waiting = stale - named
        assert all(any(reason.startswith("after ") for reason in plan[name].reasons) for name in waiting), path
        assert {plan[name].action for name in set(stages) - stale} <= {"skip"}, path
        (copy.root / path).write_text(original, encoding="utf-8")
    assert copy.dvc_is_clean()


def test_edited_helper_reruns_its_stage_only_and_reverting_restores_it(copy):
    """Metrics edited: evaluate alone runs, to the same bytes; reverted: it comes back from the cache, as cached."""
    before = copy.hashes()
    helper = copy.root / "pretune" / "evaluation" / "metrics" / "bootstrap.py"
    original = helper.read_text(encoding="utf-8")
    others = dict.fromkeys(set(copy.stages()) - {"evaluate"}, "skipped")

    helper.write_text(original + HARMLESS, encoding="utf-8")
    assert copy.plain_run() == others | {"evaluate": "ran"}
    outputs = {path: value for path, value in before.items() if path != "dvc.lock"}
    assert {path: value for path, value in copy.hashes().items() if path != "dvc.lock"} == outputs

    helper.write_text(original, encoding="utf-8")
    assert {d["stage"]: d["action"] for d in copy.report("plan", "--quick")} == dict.fromkeys(others, "skip") | {
        "evaluate": "restore"
    }
    assert copy.plain_run() == others | {"evaluate": "restored"}
    assert copy.hashes() == before
    assert copy.dvc_is_clean()

    first, edited, reverted = (copy.children(parent)["evaluate"] for parent in copy.parents())
    assert edited.data.tags["pretune.status"] == "executed"
    assert reverted.data.tags["pretune.status"] == "cached"
    assert reverted.data.tags["pretune.source_run"] == first.info.run_id
    assert reverted.data.metrics == first.data.metrics


def test_stage_that_reruns_to_the_same_bytes_stops_there(copy):
    """A remark in what only prepare imports: prepare runs, writes the same bytes, and nothing after it runs."""
    file = copy.root / "tasks" / "prepare.py"
    file.write_text(file.read_text(encoding="utf-8") + HARMLESS, encoding="utf-8")
    others = dict.fromkeys(set(copy.stages()) - {"prepare"}, "skipped")
    outcome = copy.plain_run()
    assert outcome["prepare"] == "ran"
    assert "ran" not in {outcome[name] for name in others}
    assert copy.dvc_is_clean()
    statuses = {name: run.data.tags["pretune.status"] for name, run in copy.children(copy.parents()[-1]).items()}
    assert statuses == dict.fromkeys(others, "cached") | {"prepare": "executed"}


def test_why_names_what_changed(copy):
    """`pretune why` gives a parameter's old and new value, and the code and data files that changed."""
    rate = copy.locked()["finetune"]["params"]["params.yaml"]["finetune"]["learning_rate"]
    copy.set(finetune__learning_rate=0.0123)
    file = copy.root / "pretune" / "models" / "build.py"
    file.write_text(file.read_text(encoding="utf-8") + HARMLESS, encoding="utf-8")
    changes = copy.report("why", "finetune")
    assert changes["params"] == {"finetune.learning_rate": [rate, 0.0123]}
    assert set(changes["code"]) == {"pretune/models/build.py"}
    assert changes["deps"] == changes["outs"] == {}
    assert "0.0123" in copy.pretune("why", "finetune")


def test_changed_document_reaches_the_models(copy):
    """One more document: ingest and prepare run on it, and every hash after them is another one."""
    with (copy.root / "documents.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"text": "a new reef under the salt tide", "label": "sea"}\n')
    before = copy.locked()
    assert copy.plain_run("prepare") == {"ingest": "ran", "prepare": "ran"}
    after = copy.locked()
    assert after["ingest"]["outs"] != before["ingest"]["outs"]
    stale = {d["stage"] for d in copy.report("plan", "--quick") if d["action"] == "run"}
    assert stale == {"pretrain", "finetune", "scratch", "label_efficiency", "evaluate"}
