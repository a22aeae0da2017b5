"""YAML, nested values, CSV, and files that are replaced as a whole."""

from __future__ import annotations

import fcntl
import os
import subprocess

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from pretune.config import files, params
from pretune.errors import ParamsError


@pytest.mark.parametrize(("content", "expected"), [("é\r\n", "é\r\n".encode()), (b"\x00\xff", b"\x00\xff"), ("", b"")])
def test_a_file_gets_exactly_the_new_content(tmp_path, content, expected):
    """Text as UTF-8 without other line ends, bytes as they are; no temporary file is left."""
    path = tmp_path / "a.txt"
    path.write_text("something longer than the new content", encoding="utf-8")
    files.write_atomically(path, content)
    assert path.read_bytes() == expected
    assert list(tmp_path.iterdir()) == [path]


def test_who_may_read_a_folder_may_read_its_files(tmp_path):
    """Servers often run as another user; safetensors writes for the owner alone. No right is taken away."""
    tmp_path.chmod(0o750)
    save_file({"weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    (tmp_path / "script").touch()
    (tmp_path / "script").chmod(0o755)
    files.permit(tmp_path)
    assert [path.stat().st_mode & 0o777 for path in sorted(tmp_path.iterdir())] == [0o640, 0o755]


def test_what_killed_writers_left_is_removed(tmp_path):
    """That of a process that is gone; not that of one alive, nor one that is locked from elsewhere, nor other files."""
    with subprocess.Popen(["true"]) as ended:
        pass
    gone, locked = tmp_path / f"a.json.{ended.pid}.partial", tmp_path / f"b.json.{ended.pid}.partial"
    kept = [files.partial_of(tmp_path / "a.json"), tmp_path / ".a.partial", tmp_path / "a.json", locked]
    for path in (gone, *kept):
        path.touch()
    with locked.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        files.remove_leftovers(tmp_path, tmp_path / "missing")
    assert sorted(tmp_path.iterdir()) == sorted(kept)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_content(tmp_path, monkeypatch, step):
    """A full disk or a stop in between: the old content, and no temporary file."""

    def fail(*_):
        raise OSError("no space left on device")

    path = tmp_path / "a.txt"
    path.write_text("old", encoding="utf-8")
    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="no space left"):
        files.write_atomically(path, "new")
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_has_the_usual_permissions(tmp_path):
    """Those of a file that is written directly."""
    (tmp_path / "direct").write_text("x", encoding="utf-8")
    files.write_atomically(tmp_path / "atomic", "x")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "direct").stat().st_mode


def test_a_table_comes_back_from_csv(tmp_path):
    """Commas, quotation marks and line ends in values are kept; no rows make an empty text."""
    table = [{"a": "1,5", "b": 'x "y"'}, {"a": "two\nlines", "b": ""}]
    (tmp_path / "a.csv").write_text(files.as_csv(table), encoding="utf-8", newline="")
    assert files.read_csv(tmp_path / "a.csv") == table
    assert files.as_csv([]) == ""


@pytest.mark.parametrize(
    ("text", "line"),
    [("seed: 0\ningest: [1\n", "line 3"), ("seed: 0\nseed: 1\n", "line 2"), ("a: 1\n  b: 2\n", "line 2")],
)
def test_broken_yaml_is_an_error_with_its_line(tmp_path, text, line):
    """The message names the file and the line."""
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ParamsError, match=rf"params\.yaml, {line}"):
        params.load(path)


@pytest.mark.parametrize(
    "text",
    [
        "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30)),
        "a: &a [*a]\n",
        "a: &a {b: *a}\n",
        "a: " + "[" * 2000,
        "a: 2001-99-99\n",
        "a: !!bool maybe\n",
        "a: !!python/object/apply:os.system [exit]\n",
        f"a: {'1' * 5000}\n",
    ],
    ids=["a billion laughs", "in itself", "in itself, by a key", "deep", "no date", "no bool", "code", "5,000 digits"],
)
def test_hostile_yaml_is_an_error_that_names_the_file(tmp_path, ends, text):
    """Aliases that stand for more than memory holds, values of other kinds than they say: and it ends."""
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    with ends(), pytest.raises(ParamsError, match=r"params\.yaml"):
        files.read_yaml(path)


@pytest.mark.parametrize("content", [b"", b"just a text", b"- a\n- b\n", b"seed: \xff\n", b"3: 4\n"])
def test_a_file_that_holds_no_sections_is_an_error(tmp_path, content):
    """Empty, a list, invalid bytes, keys that are not text: ParamsError, never another exception."""
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(ParamsError, match=r"params\.yaml|3|seed"):
        params.load(path)


def test_a_missing_file_is_an_error_with_a_next_step(tmp_path):
    """Without params.yaml the message names the folder and the next command."""
    with pytest.raises(ParamsError, match="is missing in") as caught:
        params.load(tmp_path / "params.yaml")
    assert "git checkout" in caught.value.next_step


def test_a_python_tag_is_refused(tmp_path):
    """YAML cannot build objects."""
    path = tmp_path / "params.yaml"
    path.write_text("seed: !!python/object/apply:os.getcwd []\n", encoding="utf-8")
    with pytest.raises(ParamsError, match="not valid YAML"):
        params.load(path)


VALUES = st.one_of(st.integers(), st.text(max_size=5), st.booleans())
KEYS = st.text(st.characters(categories=["Ll"]), min_size=1, max_size=4)
TREES = st.recursive(
    st.dictionaries(KEYS, VALUES, max_size=4), lambda trees: st.dictionaries(KEYS, trees | VALUES, max_size=4)
)


@given(TREES)
def test_flatten_names_every_leaf_by_its_path(tree):
    """Following a dotted name through the tree gives its value, and no leaf is lost."""
    flat = files.flatten(tree)
    for dotted, value in flat.items():
        node = tree
        for key in dotted.split("."):
            node = node[key]
        assert node == value
    assert len(flat) == _leaves(tree)


def _leaves(tree):
    return sum(_leaves(value) if isinstance(value, dict) else 1 for value in tree.values())
