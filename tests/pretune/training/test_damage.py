"""A checkpoint that differs from what was written is refused, whatever the damage."""

from __future__ import annotations

import os
import shutil
from contextlib import closing
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pretune.training.checkpoint import FACTS, KEEP, MANIFEST, Checkpoints
from pretune.training.parallel import World

ALONE = World(torch.device("cpu"))
SHARD = "shard-00001-model-00001-of-00001.safetensors"
FILES = [FACTS, MANIFEST, SHARD]


def tensors(step):
    """The tensors in the checkpoint of a step."""
    return {"model.weight": torch.full((5, 3), float(step)), "tally": torch.arange(3.0, dtype=torch.float64) + step}


def write(folder, *steps):
    """Checkpoints of these steps."""
    with closing(Checkpoints(folder, ALONE)) as checkpoints:
        for step in steps:
            checkpoints.save(step, tensors(step), {"step": step, "validations": [{"loss": 0.1 * step}]})


def load(folder):
    """The step of the checkpoint that is loaded, after a check of its content; 0 for none."""
    loaded = tensors(0)
    with closing(Checkpoints(folder, ALONE)) as checkpoints:
        facts = checkpoints.load(loaded)
    step = facts["step"] if facts else 0
    assert all(torch.equal(loaded[name], value) for name, value in tensors(step).items())
    assert facts is None or facts["validations"] == [{"loss": 0.1 * step}]
    return step


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Checkpoints of steps 10 and 20."""
    folder = tmp_path_factory.mktemp("checkpoints")
    write(folder, 10, 20)
    return folder


@pytest.fixture
def folder(written, tmp_path):
    """A copy to be damaged."""
    return shutil.copytree(written, tmp_path / "checkpoints")


def test_the_newest_is_loaded_without_a_warning(folder, capfd):
    """With the tensors and facts that were saved."""
    assert load(folder) == 20
    assert capfd.readouterr().err == ""


def damages():
    """Pairs of a name and a function that damages the folder of a checkpoint."""
    for name in FILES:
        yield f"{name} is missing", lambda path, name=name: (path / name).unlink()
        yield f"{name} is empty", lambda path, name=name: (path / name).write_bytes(b"")
        yield f"{name} is cut in half", lambda path, name=name: cut(path / name, 0.5)
        yield f"{name} lacks its last byte", lambda path, name=name: os.truncate(path / name, size(path / name) - 1)
        yield f"{name} goes on", lambda path, name=name: (path / name).write_bytes((path / name).read_bytes() + b"\0")
        yield f"{name} is full of zeros", lambda path, name=name: (path / name).write_bytes(bytes(size(path / name)))
        yield f"{name} is a folder", lambda path, name=name: ((path / name).unlink(), (path / name).mkdir())
    yield "a file too many", lambda path: (path / "shard-00002.safetensors").write_bytes(b"")
    yield "a folder too many", lambda path: (path / "more").mkdir()
    yield "an empty folder", lambda path: (shutil.rmtree(path), path.mkdir())
    yield "no folder", lambda path: (shutil.rmtree(path), path.write_bytes(b""))
    for content in ("[]", "[1]", "null", "1", '"x"', "{}", "{", '{"facts.json": 1}', '{"facts.json": null}', "\x00"):
        yield f"the manifest is {content!r}", lambda path, content=content: (path / MANIFEST).write_text(content)
    yield "another's files", lambda path: shutil.copy(path.parent / "step-00000010" / SHARD, path / SHARD)


def size(path):
    """Bytes of a file."""
    return path.stat().st_size


def cut(path, share):
    """Keep this share of a file, from its beginning."""
    os.truncate(path, int(size(path) * share))


DAMAGES = dict(damages())


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(folder, capfd, name):
    """Missing, empty, cut, longer, additional or foreign files, invalid manifests."""
    DAMAGES[name](folder / "step-00000020")
    assert load(folder) == 10
    message = capfd.readouterr().err
    assert message.startswith("warning: the checkpoint of step 20 is damaged and not used: ")
    assert message.count("\n") == 1


@given(st.data())
@settings(max_examples=150)
def test_a_single_bit_is_noticed(written, tmp_path_factory, data):
    """In any file, the manifest included."""
    name = data.draw(st.sampled_from(FILES))
    folder = tmp_path_factory.mktemp("flipped") / "checkpoints"
    shutil.copytree(written, folder)
    path = folder / "step-00000020" / name
    content = bytearray(path.read_bytes())
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    assert load(folder) == 10


@given(st.sampled_from(FILES), st.floats(0, 1, exclude_max=True))
def test_a_cut_at_any_position_is_noticed(written, tmp_path_factory, name, share):
    """As after a crash."""
    folder = tmp_path_factory.mktemp("cut") / "checkpoints"
    shutil.copytree(written, folder)
    cut(folder / "step-00000020" / name, share)
    assert load(folder) == 10


def test_if_all_are_damaged_training_starts_from_the_beginning_with_a_warning(folder, capfd):
    """Each is named; new checkpoints of lower steps then replace them."""
    for step in (10, 20):
        cut(folder / f"step-{step:08d}" / SHARD, 0.9)
    assert load(folder) == 0
    lines = capfd.readouterr().err.splitlines()
    assert [line.split(" is ")[0] for line in lines] == [
        "warning: the checkpoint of step 20",
        "warning: the checkpoint of step 10",
        "warning: no checkpoint",
    ]
    assert lines[-1].endswith("training starts from the beginning")
    write(folder, 3)
    assert load(folder) == 3


def test_without_checkpoints_training_starts_from_the_beginning_without_a_warning(tmp_path, capfd):
    """The first run."""
    assert load(tmp_path / "new") == 0
    assert capfd.readouterr().err == ""


def test_the_newest_is_that_of_the_highest_step_whatever_the_clock_says(folder):
    """The times of copied files are not those of the steps."""
    os.utime(folder / "step-00000010", (2e9, 2e9))
    os.utime(folder / "step-00000020", (1e9, 1e9))
    assert load(folder) == 20
    write(folder, 9999999)
    assert load(folder) == 9999999
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000020", "step-09999999"]


def test_only_the_newest_are_kept(tmp_path):
    """KEEP of them, and nothing else in the folder."""
    write(tmp_path, *range(1, 9))
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"step-{step:08d}" for step in range(9 - KEEP, 9)]


def test_a_newer_damaged_one_does_not_replace_an_intact_one(folder):
    """Step 20 is refused, training resumes from 10: the next checkpoint is kept with that one, the damaged one goes."""
    cut(folder / "step-00000020" / FACTS, 0.5)
    assert load(folder) == 10
    write(folder, 15)
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000010", "step-00000015"]
    assert load(folder) == 15


def test_a_damaged_one_of_the_same_step_is_replaced(folder):
    """When training reaches that step again."""
    cut(folder / "step-00000020" / FACTS, 0.5)
    write(folder, 20)
    assert load(folder) == 20


def test_a_partial_checkpoint_is_removed_at_the_next_start(folder):
    """It is never read."""
    shutil.copytree(folder / "step-00000020", folder / "step-00000030.partial")
    assert load(folder) == 20
    assert not list(folder.glob("*.partial"))


def test_a_run_resumes_from_the_checkpoint_before_a_damaged_one_to_the_same_bits(trainees):
    """First the newer of two is damaged, then both are."""
    case = {"objective": "labels", "settings": {"evaluate_every": 3}, "steps": 11, "save_every": 2}
    never_stopped, folder = trainees.finish(case), trainees.folder()
    for damaged, resumed in (("step-00000006",), 4), (("step-00000004", "step-00000006"), 0):
        shutil.rmtree(folder, ignore_errors=True)
        trainees.run(case | {"folder": folder, "die_after": 8})
        assert trainees.intact(folder) == [4, 6]
        for name in damaged:
            cut(Path(folder) / name / SHARD, 0.99)
        ended = trainees.finish(case | {"folder": folder})
        assert ended.result["resumed"] == resumed
        assert "step 6 is damaged" in ended.stderr
        assert ended.learnt == never_stopped.learnt
