from __future__ import annotations

import json

import pytest

from pretune.data import storage
from pretune.errors import DataError, WorkspaceError


@pytest.fixture
def copies(tmp_path, monkeypatch):
    """The folder of the copies on this machine, with room for 250 bytes."""
    monkeypatch.setenv(storage.FOLDER, str(tmp_path / "copies"))
    monkeypatch.setenv(storage.SIZE, "2.5e-7")
    return tmp_path / "copies"


@pytest.fixture
def stored(tmp_path):
    """A function that moves a file of 100 such bytes to the storage and returns its path, where there is none now."""

    def store(letter):
        path = tmp_path / f"{letter}.npy"
        path.write_bytes(letter.encode() * 100)
        storage.store(path, f"file://{tmp_path}/storage/", rows=3)
        return path

    return store


def kept(folder):
    """The first byte of each copy."""
    return sorted(path.read_bytes()[:1].decode() for path in folder.iterdir() if path.name != ".lock")


def read(path):
    """The content of a file."""
    return storage.read(path, lambda found: found.read_bytes())


def test_a_file_in_storage_is_read_as_one_that_lies_here(copies, stored, tmp_path):
    """The workspace has a pointer in its place; the same content lies in storage once."""
    path = stored("a")
    assert not path.exists()
    assert storage.paths(tmp_path, "*.npy") == [path]
    assert storage.facts(path)["rows"] == 3
    assert read(path) == b"a" * 100
    assert kept(copies) == ["a"]
    stored("a")
    assert len(list((tmp_path / "storage").iterdir())) == 1
    path.write_bytes(b"here")
    assert (read(path), storage.facts(path), storage.paths(tmp_path, "*.npy")) == (b"here", {}, [path])


def test_the_least_recently_used_copies_make_room(copies, stored):
    """What is asked for again stays; what is read while it goes is read to its end."""
    a, b, c = map(stored, "abc")
    with storage.read(b, lambda path: path.open("rb")) as open_file:
        read(a)
        read(c)
        assert kept(copies) == ["a", "c"]
        assert open_file.read() == b"b" * 100
    read(a)
    read(b)
    assert kept(copies) == ["a", "b"]


def test_a_copy_that_goes_before_it_is_opened_is_fetched_again(copies, stored):
    """Another process may need the room at that moment."""
    found = []

    def disturbed(path):
        if not found:
            path.unlink()
        found.append(path)
        return path.read_bytes()

    assert storage.read(stored("a"), disturbed) == b"a" * 100
    assert len(found) == 2
    assert kept(copies) == ["a"]


@pytest.mark.usefixtures("copies")
def test_other_content_or_none_is_an_error(stored, tmp_path):
    """The message names the object; what was fetched of it is not kept."""
    path = stored("a")
    (found,) = (tmp_path / "storage").iterdir()
    found.write_bytes(b"b" * 100)
    with pytest.raises(DataError, match=f"{found.name} has other content than was written") as caught:
        read(path)
    assert "pretune run --force" in caught.value.next_step
    found.unlink()
    with pytest.raises(DataError, match=f"ingest.storage: nothing at file://{found}"):
        read(path)
    assert kept(tmp_path / "copies") == []


@pytest.mark.usefixtures("copies")
def test_half_an_object_is_written_again(stored, tmp_path):
    """That of a writer that was killed, where a file system keeps halves."""
    stored("a")
    (found,) = (tmp_path / "storage").iterdir()
    found.write_bytes(b"a" * 10)
    assert read(stored("a")) == b"a" * 100


@pytest.mark.parametrize(("value", "problem"), [("many", "'many'"), ("-1", "'-1'"), ("1e-8", "no room for a file")])
def test_a_size_that_cannot_be_is_an_error(copies, stored, monkeypatch, value, problem):
    """No number, or less than one file needs."""
    monkeypatch.setenv(storage.SIZE, value)
    with pytest.raises(WorkspaceError, match=problem):
        read(stored("a"))
    assert kept(copies) == []


@pytest.mark.usefixtures("copies")
def test_a_pointer_says_where_content_is_and_nothing_else_is_fetched(stored):
    """It is JSON, with the MD5 as the object's name."""
    path = stored("a")
    pointer = json.loads(path.with_name("a.npy.remote").read_text(encoding="utf-8"))
    assert pointer.keys() == {"address", "md5", "bytes", "rows"}
