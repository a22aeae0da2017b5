from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.slow
WAYS = {
    "flow": (["-m", "cli.app", "run", "pretrain", "--no-prefect"], 7),
    "dvc": (["-m", "dvc", "repro", "pretrain"], 255),
    "tasks": (["-m", "tasks", "pretrain"], 7),
}


def edit_params(clone):
    """Fewer steps."""
    clone.set(pretrain__steps=12)


def edit_code(clone):
    """A remark in the training loop."""
    path = clone.root / "pretune" / "training" / "loop.py"
    path.write_text(path.read_text(encoding="utf-8") + "\n# a remark\n", encoding="utf-8")


def edit_data(clone):
    """One token of the corpus is another one."""
    path = clone.root / "data" / "prepared" / "corpus" / "tokens-00000.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("way", "edit", "what"),
    [
        ("flow", edit_params, "pretrain.steps changed from 150 to 12"),
        ("dvc", edit_code, "pretune/training changed"),
        ("tasks", edit_data, "data/prepared/corpus changed"),
    ],
    ids=["flow-params", "dvc-code", "tasks-data"],
)
def test_stage_whose_inputs_change_is_refused(way, edit, what, stale):
    """Params, code or data edited during a stage: 7 says which, dvc.lock keeps the truth, the next run is new."""
    command, code = WAYS[way]
    lock = stale.hashes()["dvc.lock"]
    old = {run.info.run_id for run in stale.records()}
    main = stale.start(*command)
    stale.wait(stale.is_training, "a loss", process=main)
    edit(stale)
    printed = main.communicate(timeout=120)[0]
    assert main.returncode == code, printed
    assert what in printed
    assert "while pretrain was running" in printed
    assert "Traceback" not in printed
    assert json.loads((stale.state / "last-error.json").read_text(encoding="utf-8"))["exit_code"] == 7
    assert stale.hashes()["dvc.lock"] == lock
    (run,) = [run for run in stale.records() if run.info.run_id not in old and run.info.run_name == "pretrain"]
    assert run.info.status == "FAILED"
    assert not [tag for tag in run.data.tags if tag.startswith("dvc.out.")]
    assert stale.leftovers() == []
    if edit is edit_params:
        assert stale.plain_run("pretrain")["pretrain"] == "ran"
        assert stale.locked()["pretrain"]["params"]["params.yaml"]["pretrain"]["steps"] == 12
        assert stale.children(stale.parents()[-1])["pretrain"].data.params["pretrain.steps"] == "12"


def test_edit_at_the_very_start_is_used_or_refused(stale):
    """Params edited while a stage starts up: dvc.lock never says other steps than those that were taken."""
    main = stale.start(*WAYS["tasks"][0])
    stale.wait(stale.journals, "the stage's record", process=main)
    stale.set(pretrain__steps=12)
    printed = main.communicate(timeout=120)[0]
    assert main.returncode in {0, 7}, printed
    curve = (stale.root / "reports" / "curves" / "pretrain.csv").read_text(encoding="utf-8")
    taken = int(curve.splitlines()[-1].split(",")[0])
    assert stale.locked()["pretrain"]["params"]["params.yaml"]["pretrain"]["steps"] == taken


def test_shares_given_while_a_run_is_on_its_way_are_used(stale):
    """The run began when `label_efficiency` had nothing to do: what its turn finds in params.yaml is what it does."""
    main = stale.start("-m", "cli.app", "run", "label_efficiency", "--no-prefect")
    stale.wait(stale.is_training, "a loss", process=main)
    stale.set(label_efficiency__shares=[0.5])
    printed = main.communicate(timeout=120)[0]
    assert main.returncode == 0, printed
    locked = stale.locked()["label_efficiency"]["params"]["params.yaml"]["label_efficiency"]
    written = {path.name for path in (stale.root / "reports" / "label_efficiency").iterdir()}
    assert (locked, "0.5.json" in written) == ({"shares": [0.5]}, True)
