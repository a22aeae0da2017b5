"""A full disk while a checkpoint is written: the last intact one stays, and the results of training are the same."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

CASE = {"objective": "masked", "steps": 9, "save_every": 2}


@pytest.fixture
def base(trainees):
    """Checkpoints of steps 2 and 4."""
    folder = trainees.folder()
    trainees.run(CASE | {"folder": folder, "die_after": 6})
    assert trainees.intact(folder) == [2, 4]
    return folder


def partial(folder):
    """Names of unfinished checkpoints."""
    return sorted(path.name for path in Path(folder).glob("*.partial"))


@pytest.mark.slow
@pytest.mark.parametrize("operations", [1, 1000], ids=["for-a-moment", "for-good"])
def test_no_space_at_any_write_leaves_the_last_good_checkpoint_and_training_goes_on(trainees, base, operations):
    """At each open, mkdir, write, half a write, fsync and rename: a warning, no partial checkpoint, the same bits."""
    never_short = trainees.finish(CASE)
    counted = trainees.finish(CASE | {"folder": copied(trainees, base), "count": True}).result["operations"]
    names = [name for name, _ in counted]
    begin, end = (names.index(f"os.mkdir step-{step:08d}.partial") for step in (6, 8))
    places = [place for place, (_, takes_space) in enumerate(counted, start=1) if takes_space and begin < place <= end]
    assert len(places) > 10

    def run(place):
        folder = copied(trainees, base)
        ended = trainees.run(CASE | {"folder": folder, "full_at": place, "full_for": operations})
        return ended, trainees.intact(folder), partial(folder)

    for place, (ended, whole, left) in zip(places, trainees.map(run, places), strict=True):
        operation = names[place - 1]
        assert ended.code == 0, (operation, ended.stderr)
        assert ended.learnt == never_short.learnt, operation
        assert "warning: no checkpoint at step 6: [Errno 28] No space left on device" in ended.stderr, operation
        assert whole in ([[4, 8], [6, 8]] if operations == 1 else [[2, 4], [2, 4, 6]]), operation
        assert not left, operation


def copied(trainees, base):
    """A copy of the checkpoints, to be changed."""
    folder = trainees.folder()
    shutil.copytree(base, folder)
    return folder


def test_a_limit_on_the_size_of_files_is_handled_alike(trainees, base):
    """With RLIMIT_FSIZE of 10 kB."""
    never_short = trainees.finish(CASE)
    folder = copied(trainees, base)
    ended = trainees.finish(CASE | {"folder": folder, "largest_file": 10_000})
    assert ended.learnt == never_short.learnt
    for step in (6, 8):
        assert f"warning: no checkpoint at step {step}: [Errno 27] File too large; training goes on\n" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert trainees.intact(folder) == [2, 4]
    assert not partial(folder)
    assert trainees.finish(CASE | {"folder": folder}).result["resumed"] == 4


def test_sigterm_stops_training_without_space_too(trainees, base):
    """A warning and the usual exit code; the checkpoint before is used."""
    ended = trainees.run(CASE | {"folder": base, "largest_file": 10_000, "signal_in": 1, "signals": [15]})
    assert ended.code == 143
    assert "no checkpoint at step 5" in ended.stderr
    assert trainees.finish(CASE | {"folder": base}).result["resumed"] == 4
