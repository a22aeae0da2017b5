"""Killed at any moment and restarted: the results are bitwise those of an uninterrupted run."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest

FAMILY = {"masked": "modernbert", "causal": "llama", "labels": "bert"}
WATCHED = {"evaluate_every": 2, "metric_for_best_model": "loss", "patience": 4}
PAIRWISE = [  # covers every pair of values of two settings
    ("masked", "adamw", 1, "fp32"), ("masked", "muon", 4, "bf16"), ("causal", "adamw", 4, "bf16"),
    ("causal", "muon", 1, "fp32"), ("labels", "adamw", 1, "bf16"), ("labels", "muon", 4, "fp32"),
]  # fmt: skip
EVERY = [
    pytest.param(*combination, marks=[] if combination in PAIRWISE else pytest.mark.nightly)
    for combination in itertools.product(FAMILY, ["adamw", "muon"], [1, 4], ["fp32", "bf16"])
]


def restart_until_done(trainees, case, **options):
    """Kill the process in a step and restart it with another number of workers, until it is done; and how often."""
    folder = trainees.folder()
    for deaths, workers in enumerate(itertools.cycle([0, 3, 1])):
        attempt = {"folder": folder, "die_after": 5 + deaths // 2, "workers": workers}
        ended = trainees.run(case | attempt | options)
        if ended.code != -9:
            assert ended.code == 0, ended.stderr
            return ended, deaths
    raise AssertionError


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "optimizer", "gradient_accumulation_steps", "precision"), EVERY)
def test_a_run_that_is_killed_again_and_again_ends_in_the_same_bits(
    trainees, objective, optimizer, gradient_accumulation_steps, precision
):
    """Weights, losses, validations and the best of them, with dropout, for any number of workers."""
    settings = WATCHED | {
        "optimizer": optimizer,
        "gradient_accumulation_steps": gradient_accumulation_steps,
        "precision": precision,
    }
    case = {"objective": objective, "family": FAMILY[objective], "settings": settings, "steps": 13}
    never_stopped = trainees.finish(case)
    ended, deaths = restart_until_done(trainees, case, save_every=3)
    assert deaths >= 2
    assert ended.learnt == never_stopped.learnt


@pytest.mark.parametrize(
    "settings",
    [
        {"gradient_checkpointing": True, "gradient_accumulation_steps": 2},
        {"schedule": "wsd", "warmup": 3.0},
        {"evaluate_every": 3},
        {"evaluate_every": 1, "metric_for_best_model": "accuracy", "patience": 2},
        {"evaluate_every": 1, "metric_for_best_model": "loss", "patience": 1, "learning_rate": 0.5},
        {"evaluate_every": 2, "metric_for_best_model": "loss", "ema_decay": 0.9},
    ],
    ids=["gradient-checkpointing", "wsd", "validation", "best-of-all", "early-stop", "averaged"],
)
def test_so_does_one_with_other_settings(trainees, settings):
    """Gradient checkpointing, other schedules, averaged weights, validation without selection, early stopping."""
    case = {"objective": "labels", "settings": settings, "steps": 13}
    ended, _ = restart_until_done(trainees, case, save_every=2)
    assert ended.learnt == trainees.finish(case).learnt


def test_writing_in_the_background_does_not_change_a_checkpoint(trainees):
    """It holds the state at its step, though training continues while it is written."""
    case = {"objective": "masked", "settings": WATCHED, "steps": 25}
    ended, deaths = restart_until_done(trainees, case, save_every="always", wait=False)
    assert deaths >= 2
    assert ended.learnt == trainees.finish(case).learnt


@pytest.mark.slow
@pytest.mark.parametrize("objective", FAMILY)
def test_the_moment_of_the_kill_does_not_matter(trainees, objective):
    """`kill -9` from outside, at random times."""
    case = {"objective": objective, "family": FAMILY[objective], "settings": WATCHED | {"patience": 0}, "steps": 41}
    never_stopped = trainees.finish(case)
    moments = np.random.default_rng(0)
    folder, codes, ended = trainees.folder(), [], None
    while not codes or codes[-1] == -9:
        wait = moments.uniform(0.05, 0.2 + 0.02 * len(codes))
        ended = trainees.run(case | {"folder": folder, "save_every": "always", "wait": False}, kill_after=wait)
        codes.append(ended.code)
    assert codes[-1] == 0, ended.stderr
    assert ended.learnt == never_stopped.learnt


CASE = {"objective": "masked", "settings": WATCHED, "steps": 7, "save_every": 2}


def no_checkpoints(trainees):
    """No checkpoint."""
    return trainees.folder()


def two_checkpoints(trainees):
    """Those of steps 2 and 4; with the next one, that of step 2 has to be removed."""
    folder = trainees.folder()
    trainees.run(CASE | {"folder": folder, "die_after": 6})
    assert trainees.intact(folder) == [2, 4]
    return folder


def damaged_and_partial(trainees):
    """The checkpoint of step 4 is intact, that of step 6 is damaged, and there is a partial one."""
    folder = trainees.folder()
    trainees.run(CASE | {"folder": folder, "die_after": 7})
    newest, partial = Path(folder, "step-00000006"), Path(folder, "step-00000008.partial")
    shutil.copytree(newest, partial)
    (newest / "facts.json").write_text("{}", encoding="utf-8")
    assert trainees.intact(folder) == [4]
    return folder


def contents(folder):
    """What lies in a folder: paths, and the bytes of files."""
    paths = sorted(Path(folder).rglob("*"))
    return tuple((str(path.relative_to(folder)), path.read_bytes() if path.is_file() else None) for path in paths)


@pytest.mark.slow
@pytest.mark.parametrize("before", [no_checkpoints, two_checkpoints, damaged_and_partial])
def test_a_kill_at_any_file_operation_loses_no_intact_checkpoint(trainees, before):
    """At each open, mkdir, write, half a write, fsync, rename and remove; then the newest intact one is used.

    Kills that leave the same bytes are followed by one restart.
    """
    case = CASE | ({"steps": 3} if before is no_checkpoints else {})  # one checkpoint is written, not three
    base, never_stopped = before(trainees), trainees.finish(case)

    def copy():
        folder = trainees.folder()
        if Path(base).exists():
            shutil.copytree(base, folder)
        return folder

    oldest_used = max(trainees.intact(base), default=0)
    operations = trainees.finish(case | {"folder": copy(), "count": True}).result["operations"]
    assert len(operations) > 20

    def die(number):
        folder = copy()
        died = trainees.run(case | {"folder": folder, "die_at": number})
        return died.code, trainees.intact(folder), folder

    def restart(folder):
        ended = trainees.run(case | {"folder": folder})
        return ended, sorted(path.name for path in Path(folder).glob("*.partial"))

    deaths = trainees.map(die, range(1, len(operations) + 1))
    states = [contents(folder) for _, _, folder in deaths]
    folders = {state: folder for state, (_, _, folder) in zip(states, deaths, strict=True)}
    restarts = dict(zip(folders, trainees.map(restart, folders.values()), strict=True))
    results = [(code, whole, *restarts[state]) for (code, whole, _), state in zip(deaths, states, strict=True)]
    for operation, (code, whole, ended, left) in zip(operations, results, strict=True):
        assert code == -9, operation
        assert ended.code == 0, (operation, ended.stderr)
        assert ended.result["resumed"] == max(whole, default=0) >= oldest_used, operation
        assert ended.learnt == never_stopped.learnt, operation
        assert not left, operation
    assert len({ended.result["resumed"] for _, _, ended, _ in results}) > 1  # before and after the renaming
