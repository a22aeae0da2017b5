"""Files that somebody made to do harm: bombs, links, members that lead elsewhere, sizes that are not there."""

from __future__ import annotations

import gzip
import io
import sqlite3
import struct
import tarfile
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pretune.data.ingest.sources import files
from pretune.errors import DataError

TABLE = b"text,label\nhello,1\n"
ROW = {"text": "hello", "label": "1"}
BOMB = "unpacks to more than 200 times its size"


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Bombs of a megabyte count as such: as if that were what any file may unpack to."""
    monkeypatch.setattr(files, "FREE", 2**20)


def zipped(members):
    """The bytes of a .zip: {name or ZipInfo: content}."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content, zipfile.ZIP_DEFLATED)
    return sink.getvalue()


def tarred(*entries):
    """The bytes of a .tar: (name, content), or (name, type of link, its target)."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for name, *rest in entries:
            entry = tarfile.TarInfo(name)
            if len(rest) == 2:
                entry.type, entry.linkname = rest
                archive.addfile(entry)
            else:
                entry.size = len(rest[0])
                archive.addfile(entry, io.BytesIO(rest[0]))
    return sink.getvalue()


LONG = b"text\n" + b"a" * 2**22


def texts_of_a_dictionary(path):
    """4 MB of text in a kilobyte: each row names the same entry of a dictionary."""
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(1000, np.int32)), pa.array(["x" * 4000]))
    pq.write_table(pa.table({"text": column}), path)


def one_long_text(path):
    """One value of 4 MB, compressed."""
    pq.write_table(pa.table({"text": ["x" * 2**22]}), path, compression="zstd", use_dictionary=False)


def rows_of_nothing(path):
    """A billion rows that take no byte."""
    table = pa.table({"text": pa.nulls(10**9)})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("a.csv.gz", lambda path: path.write_bytes(gzip.compress(LONG))),
        ("a.zip", lambda path: path.write_bytes(zipped({"a.csv": LONG}))),
        ("a.tar.gz", lambda path: path.write_bytes(gzip.compress(tarred(("a.csv", LONG))))),
        ("two.zip", lambda path: path.write_bytes(zipped({"a.csv.gz": gzip.compress(LONG), "b.csv": TABLE}))),
        ("a.xlsx", lambda path: path.write_bytes(zipped({"xl/workbook.xml": LONG}))),
        ("dictionary.parquet", texts_of_a_dictionary),
        ("one.parquet", one_long_text),
        ("a.arrow", rows_of_nothing),
    ],
)
def test_a_bomb_is_refused_with_its_name(tmp_path, values, ends, name, make):
    """Before it fills the memory, whatever it declares; archives in archives too."""
    make(tmp_path / name)
    with ends(), pytest.raises(DataError, match=BOMB) as caught:
        values(name)
    assert name in str(caught.value)
    assert caught.value.next_step


def test_what_compresses_well_is_no_bomb(tmp_path, values):
    """Ten thousand equal rows: a hundredth of their size, and all of them are read."""
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"text,label\n" + TABLE[11:] * 10_000))
    assert values("a.csv.gz") == [ROW] * 10_000


LINK = zipfile.ZipInfo("b.csv")
LINK.external_attr = 0o120777 << 16


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.zip", zipped({"../../b.csv": TABLE}), "its member ../../b.csv leads out of it"),
        ("a.tar", tarred(("x/../../b.csv", TABLE)), "leads out of it"),
        ("a.zip", zipped({LINK: "/etc/passwd"}), "a.zip/b.csv: cannot be read (a link"),
        ("a.tar", tarred(("b.csv", tarfile.SYMTYPE, "/etc/passwd")), "a link to /etc/passwd, which is not followed"),
        ("a.tar", tarred(("b.csv", tarfile.LNKTYPE, "/etc/passwd")), "which is not in the archive"),
        ("a.tar", tarred(("b.csv", tarfile.LNKTYPE, "b.csv")), "which is not in the archive"),
    ],
)
def test_a_member_that_leads_elsewhere_is_refused(tmp_path, values, name, content, message):
    """Neither read from elsewhere, nor taken for a text, nor left out without a word; nothing is unpacked."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        values(name)
    assert message in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_link_within_an_archive_is_the_member_that_it_names(tmp_path, values):
    """As tar writes a file that has two names."""
    (tmp_path / "a.tar").write_bytes(tarred(("a.csv", TABLE), ("b.csv", tarfile.LNKTYPE, "a.csv")))
    assert values("a.tar") == [ROW, ROW]


@pytest.fixture
def workspace(tmp_path):
    """A folder `work` with data, and files outside of it."""
    data = tmp_path / "work" / "data"
    data.mkdir(parents=True)
    (data / "a.csv").write_bytes(TABLE)
    (tmp_path / "secret.csv").write_bytes(b"text,label\nsecret,1\n")
    (tmp_path / "cache" / "files" / "md5" / "0a").mkdir(parents=True)
    connection = sqlite3.connect(tmp_path / "out.db")
    connection.execute("CREATE TABLE rows (text TEXT)")
    connection.close()
    return tmp_path / "work"


LINKS = {"data/b.csv": "secret.csv", "linked": ".", "x.db": "out.db"}


@pytest.mark.parametrize(
    ("link", "place"),
    [
        ("data/b.csv", "data"),
        ("data/b.csv", "data/b.csv"),
        ("data/b.csv", "data/*.csv"),
        ("linked", "linked/secret.csv"),
        ("linked", "linked/*.csv"),
        ("x.db", "sqlite:///x.db#rows"),
    ],
)
def test_a_link_out_of_the_workspace_needs_consent(workspace, read_in, link, place):
    """Else a branch of somebody else would make any file of this machine a part of the data, and so of the records."""
    (workspace / link).symlink_to(workspace.parent / LINKS[link])
    with pytest.raises(DataError, match="holds a link out of the workspace, to ") as caught:
        read_in(workspace, place)
    assert caught.value.next_step == "add outside to ingest.allow in params.yaml"
    assert isinstance(read_in(workspace, place, allow=["outside"]), list)


def test_a_link_within_the_workspace_or_into_a_cache_of_dvc_is_followed(tmp_path, workspace, read_in):
    """As `cache.type = symlink` makes them, for a cache that several workspaces share too."""
    cached = tmp_path / "cache" / "files" / "md5" / "0a" / ("b" * 30)
    cached.write_bytes(TABLE)
    (workspace / "data" / "b.csv").symlink_to(cached)
    (workspace / "data" / "c.csv").symlink_to("a.csv")
    assert read_in(workspace, "data") == [ROW] * 3


@pytest.mark.parametrize("target", ["nothing.csv", "."])
def test_a_link_that_is_not_followed_is_an_error(workspace, read_in, target):
    """To nothing, or to a folder, into which no glob goes: the rows behind it would be missing without a word."""
    (workspace / "data" / "b.csv").symlink_to(target)
    with pytest.raises(DataError, match=r"data/b\.csv is a link that is not followed"):
        read_in(workspace, "data")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\0\x08",
        b"\0\0\x08\0x",
        b"\0\0\x08\x03" + struct.pack(">III", 2**31, 2**31, 2**31),
        b"\0\0\x08\x03" + struct.pack(">III", 2**32 - 1, 0, 2**32 - 1),
        b"\0\0\x08\xff" + b"\0\0\0\1" * 255 + b"x",
    ],
    ids=["empty", "cut", "no dimension", "sizes that overflow", "entries of no byte", "255 dimensions"],
)
def test_sizes_that_are_not_there_are_an_error(tmp_path, values, content):
    """An IDX file declares them; nothing is allocated by them."""
    (tmp_path / "a-ubyte").write_bytes(content)
    with pytest.raises(DataError, match="a-ubyte"):
        values("a-ubyte", format="idx")


def far_moment(path):
    """A moment of the year 60000, which Arrow holds and Python does not."""
    table = pa.table({"text": ["a"], "when": pa.array([1_831_297_420_800], pa.timestamp("s"))})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def places_outside(path):
    """A text that ends beyond its buffer: Arrow would read whatever is there."""
    table, sink = pa.table({"text": ["abcd"]}), io.BytesIO()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    content = bytearray(sink.getvalue())
    place = content.rindex(np.array([0, 4], np.int32).tobytes(), 0, content.index(b"abcd"))
    content[place + 4] = 7
    path.write_bytes(bytes(content))


def broken_workbook(path):
    """A workbook in which a compressed member is damaged."""
    content = bytearray(zipped({"[Content_Types].xml": b"<a>" * 100, "xl/workbook.xml": b"<b>" * 100}))
    start = content.index(b"[Content_Types].xml") + len("[Content_Types].xml")
    content[start : start + 8] = b"\xff" * 8
    path.write_bytes(bytes(content))


def nameless_member(path):
    """An archive in which a member has no name."""
    path.write_bytes(zipped({"x.csv": TABLE, "a.csv": TABLE}).replace(b"x.csv", b"\0.csv"))


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("a.arrow", far_moment),
        ("a.parquet", lambda path: pq.write_table(pa.table({"when": pa.array([2**40], pa.timestamp("s"))}), path)),
        ("a.arrow", places_outside),
        ("a.xlsx", broken_workbook),
        ("a.zip", nameless_member),
    ],
)
def test_what_fuzzing_found_is_an_error_with_the_name(tmp_path, values, name, make):
    """Each ended in a traceback, or could read beyond its memory."""
    make(tmp_path / name)
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        values(name)
