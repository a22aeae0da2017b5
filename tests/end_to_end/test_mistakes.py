from __future__ import annotations

import fcntl
import json
import shutil

import pytest

pytestmark = pytest.mark.slow


def rewrite(path, old, new):
    """Replace a text that is there exactly once."""
    content = path.read_text(encoding="utf-8")
    assert content.count(old) == 1
    path.write_text(content.replace(old, new), encoding="utf-8")


def wrong_params(clone):
    """An unknown key, a value of a wrong type, one out of range: in three sections."""
    rewrite(clone.root / "params.yaml", "  epochs:", "  epoch: 3\n  epochs:")
    clone.set(pretrain__steps="many", evaluate__confidence=7)


def quoted_number(clone):
    """A number written as text."""
    clone.set(finetune__learning_rate="1e-4")


def no_params(clone):
    """params.yaml is gone."""
    (clone.root / "params.yaml").unlink()


def torn_params(clone):
    """params.yaml is no YAML."""
    (clone.root / "params.yaml").write_text("seed: [0\n", encoding="utf-8")


def no_data(clone):
    """The user's own file is gone."""
    (clone.root / "documents.jsonl").unlink()


def empty_data(clone):
    """The user's own file holds nothing."""
    (clone.root / "documents.jsonl").write_text("", encoding="utf-8")


def broken_data(clone):
    """A line without a text, and one that is no JSON."""
    rows = (clone.root / "documents.jsonl").read_text(encoding="utf-8").splitlines()
    rows[2:4] = ['{"body": "no text here"}', "{"]
    (clone.root / "documents.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    clone.set(ingest__clean__max_bad_rows=0)


def cycle(clone):
    """The first stage reads what the last but one writes."""
    clone.set("dvc.yaml", stages__ingest__deps=[*clone.stages()["ingest"]["deps"], "models/finetuned"])


def unknown_word(clone):
    """A key in dvc.yaml that DVC does not know."""
    clone.set("dvc.yaml", stages__scratch__outputs=["models/scratch"])


def no_git(clone):
    """The folder is no git repository."""
    shutil.rmtree(clone.root / ".git")


def no_cluster(clone):
    """Training is to run on Ray, after `prepare`, and no cluster is named."""
    clone.set(launch__engine="ray", prepare__vocabulary_size=410)


def nothing(clone):
    """All is well; the command line is wrong."""


RUN = ["-m", "cli.app", "run", "--no-prefect"]
WRONG = [
    "finetune.epoch: unknown key (did you mean epochs?)", "pretrain.steps", "'many'", "evaluate.confidence", "got 7"
]  # fmt: skip
MISTAKES = [
    (wrong_params, ["-m", "cli.app", "run"], 3, WRONG),
    (wrong_params, ["-m", "cli.app", "plan"], 3, WRONG),
    (wrong_params, ["-m", "tasks", "evaluate"], 3, WRONG),
    (quoted_number, RUN, 3, ["finetune.learning_rate", "'1e-4'", "without quotes"]),
    (no_params, RUN, 3, ["params.yaml is missing", "git checkout params.yaml"]),
    (no_params, ["-m", "tasks", "evaluate"], 3, ["params.yaml is missing"]),
    (torn_params, RUN, 3, ["params.yaml, line 2", "not valid YAML"]),
    (no_data, RUN, 4, ["documents.jsonl"]),
    (no_data, ["-m", "tasks", "ingest"], 4, ["documents.jsonl"]),
    (empty_data, RUN, 4, ["documents.jsonl holds no rows"]),
    (empty_data, ["-m", "tasks", "ingest"], 4, ["documents.jsonl holds no rows"]),
    (broken_data, RUN, 4, ["documents.jsonl:3", "documents.jsonl:4"]),
    (cycle, RUN, 3, ["dvc.yaml", "finetune", "ingest"]),
    (cycle, ["-m", "tasks", "ingest"], 3, ["dvc.yaml", "finetune", "ingest"]),
    (unknown_word, RUN, 3, ["dvc.yaml", "scratch"]),
    (nothing, [*RUN, "finetun"], 3, ["finetun", "did you mean finetune?"]),
    (nothing, ["-m", "cli.app", "why", "finetun"], 3, ["did you mean finetune?"]),
    (nothing, ["-m", "tasks", "finetun"], 3, ["did you mean finetune?"]),
    (nothing, ["-m", "tasks"], 2, ["usage:", "evaluate"]),
    (nothing, ["-m", "cli.app", "run", "--nonsense"], 2, ["--nonsense"]),
    (nothing, ["-m", "cli.app", "trace", "models/finetunde"], 4, ["did you mean models/finetuned?"]),
    (no_cluster, RUN, 9, ["PRETUNE_CLUSTER names no cluster", "PRETUNE_CLUSTER=auto"]),
    (no_git, RUN, 9, ["not in a git repository", "git init"]),
    (no_git, ["-m", "tasks", "evaluate"], 9, ["not in a git repository", "git init"]),
]


@pytest.mark.parametrize(
    ("make", "command", "code", "words"),
    MISTAKES,
    ids=[f"{make.__name__}-{' '.join(word for word in command if word[0] != '-')}" for make, command, _, _ in MISTAKES],
)
def test_mistake_gets_a_message_and_its_exit_code(make, command, code, words, copy):
    """A user's mistake ends in the documented code, names what is wrong and what to do; nothing produced is lost."""
    before = copy.hashes()
    make(copy)
    printed = copy.run(*command, code=code)
    flat = " ".join(printed.split())
    assert [word for word in words if word not in flat] == [], printed
    assert "Traceback" not in printed
    copy.wait_for_end()
    assert copy.hashes() == before
    assert copy.leftovers() == []


def test_mistake_in_a_bare_repro_is_explained(copy):
    """DVC itself answers 255 to every mistake: the reason is printed, and lies in .pretune/last-error.json."""
    copy.set(evaluate__bootstrap_samples=7)
    printed = copy.run("-m", "dvc", "repro", code=255)
    assert "evaluate.bootstrap_samples" in printed
    assert "Traceback" not in printed
    error = json.loads((copy.state / "last-error.json").read_text(encoding="utf-8"))
    assert error["exit_code"] == 3
    assert "evaluate.bootstrap_samples" in error["problems"][0]


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("run", ["-m", "cli.app", "run"]),
        ("evaluate", [*RUN]),
        ("evaluate", ["-m", "tasks", "evaluate"]),
        ("override", [*RUN, "--set", "evaluate.bootstrap_samples=123"]),
    ],
    ids=["run", "run-beside-stage", "stage", "override"],
)
def test_lock_of_another_run_is_respected(name, command, copy):
    """While another process holds a lock, a run says who does and ends with 5; outputs and records stay whole."""
    before = copy.hashes()
    copy.set(evaluate__bootstrap_samples=101)
    path = copy.state / "locks" / f"{name}.lock"
    path.parent.mkdir(exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write('{"pid": 4321, "since": "12:34:56"}')
        file.flush()
        printed = copy.run(*command, code=5)
    assert "already running (process 4321, since 12:34:56)" in " ".join(printed.split())
    assert "Traceback" not in printed
    assert copy.hashes() == before
    assert copy.leftovers() == []


def test_locks_of_a_dead_process_do_not_hold(copy):
    """Lock files that a killed process left, whatever is written in them, stop nobody."""
    folder = copy.state / "locks"
    folder.mkdir(exist_ok=True)
    for name in ("run", "evaluate", "sender", "override"):
        (folder / f"{name}.lock").write_text('{"pid": 1, "si', encoding="utf-8")
    (copy.root / ".dvc" / "tmp").mkdir(exist_ok=True)
    (copy.root / ".dvc" / "tmp" / "rwlock").write_text('{"/half', encoding="utf-8")
    copy.set(evaluate__bootstrap_samples=101)
    assert copy.plain_run()["evaluate"] == "ran"
