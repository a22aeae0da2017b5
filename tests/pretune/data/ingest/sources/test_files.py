"""Finding files: names, archives, strays, and content that is not what the name says."""

from __future__ import annotations

import io
import tarfile
import zipfile

import pytest
from PIL import Image

from pretune.config import source_spec
from pretune.errors import DataError

TABLE = "text,label\nhello,1\n"
ROW = {"text": "hello", "label": "1"}


@pytest.mark.parametrize("name", ["[2024] reviews.csv", "what?.csv", "a*b.csv", "50% #1 (é).csv"])
def test_a_path_that_exists_is_that_file(tmp_path, records, write, name):
    """Whatever is in its name; beside it lies one that the same glob would match."""
    write(tmp_path / "data" / name, TABLE)
    write(tmp_path / "data" / "2 reviews.csv", "text\nno\n")
    assert records(f"data/{name}") == [(None, f"data/{name}:2", ROW)]
    assert list(source_spec.local_paths(f"data/{name}", tmp_path)) == [f"data/{name}"]


def zipped(files):
    """The bytes of a .zip with these members."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return content.getvalue()


def tarred(files, mode):
    """The bytes of a .tar with these members."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=mode) as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    return content.getvalue()


MEMBERS = {"a/one.csv": TABLE, "a/two.csv": TABLE, "__MACOSX/a/._one.csv": "x", ".hidden.csv": "x"}


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.zip", zipped(MEMBERS))]
    + [(f"a.tar{kind}", tarred(MEMBERS, f"w:{kind.strip('.')}")) for kind in ("", ".gz", ".bz2", ".xz")],
)
def test_members_of_an_archive_are_files(tmp_path, records, write, name, content):
    """All of them, or those that a path or pattern after its name selects; a broken archive is an error."""
    (tmp_path / name).write_bytes(content)
    both = [(None, f"{name}/a/one.csv:2", ROW), (None, f"{name}/a/two.csv:2", ROW)]
    assert records(name) == both
    assert records(f"{name}/a/two.csv") == records(f"{name}/*/t*.csv") == both[1:]
    assert list(source_spec.local_paths(f"{name}/a/two.csv", tmp_path)) == [name]
    with pytest.raises(DataError, match=f"{name} holds no b.csv"):
        records(f"{name}/b.csv")
    for size in (700, 1024) if name == "a.tar" else (len(content) // 2,):
        (tmp_path / name).write_bytes(content[:size])
        with pytest.raises(DataError, match=f"{name}: cannot be read"):
            records(name)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 123456\n"


@pytest.mark.parametrize(
    "name", ["a.txt", "a.csv", "a.tsv", "a.jsonl", "a.json", "a.parquet", "a.arrow", "a.conll", "a.xlsx", "a.png"]
)
def test_a_pointer_of_git_lfs_is_refused_by_name(tmp_path, values, write, name):
    """It is no document, whatever the format."""
    write(tmp_path / name, POINTER)
    with pytest.raises(DataError, match=rf"{name}: a pointer of Git LFS") as caught:
        values(name)
    assert caught.value.next_step == "git lfs pull"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"\x1f\x8b\x08\x00", "the content is that of a .gz file"),
        ("a.txt", b"%PDF-1.7\n\x00...", "the content is that of a .pdf file"),
        ("a.csv", zipped({"a.csv": TABLE}), "the content is that of a .zip file"),
        ("a.txt", b"\x00\x01" * 100, "binary, not text: 100 of its first 200 bytes are zero"),
        ("a.txt", b"PAR1\x15\x04", "the content is that of a .parquet file"),
        ("a.csv", b"\n<!DOCTYPE html><html>", "a web page (HTML)"),
        ("a.parquet", b"<html lang='en'>", "a web page (HTML)"),
        ("a.csv.gz", TABLE.encode(), "cannot be read"),
        ("a.idx.xz", b"\xfd7zXZ\x00broken", "cannot be read"),
        ("a.csv.dvc", b"outs:\n- path: a.csv\n", "the file of DVC that stands for a.csv"),
    ],
)
def test_content_that_is_not_what_the_name_says_is_refused(tmp_path, values, name, content, message):
    """With what it is, and without a byte of it on the terminal."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        values(name)
    assert message in str(caught.value)
    assert str(caught.value).replace("\n", "").isprintable()


def test_a_text_may_begin_like_another_format(tmp_path, values, write):
    """A gene, a bit of HTML: without bytes that no text holds."""
    write(tmp_path / "a.csv", "PAR1,gene\nx,y\n")
    write(tmp_path / "a.txt", "<html>\n")
    assert values("a.csv") == [{"PAR1": "x", "gene": "y"}]
    assert values("a.txt") == [{"text": "<html>\n"}]


def test_a_broken_member_of_an_archive_is_an_error(tmp_path, values, write):
    """By its checksum, when it is read."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("a.csv", TABLE)
    write(tmp_path / "a.zip", content.getvalue().replace(b"hello", b"hallo", 1))
    with pytest.raises(DataError, match=r"a\.zip/a\.csv: cannot be read \(Bad CRC"):
        values("a.zip")


def test_an_encrypted_archive_is_an_error(tmp_path, values, write):
    """It cannot be read without its password."""
    content = bytearray(zipped({"a.csv": TABLE}))
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the flag, in the list of members
    write(tmp_path / "a.zip", bytes(content))
    with pytest.raises(DataError, match=r"a\.zip: is encrypted"):
        values("a.zip")


def test_an_archive_in_an_archive_is_an_error(tmp_path, values, write):
    """Where a path names it; among other members it is left out like any file that is no data."""
    write(tmp_path / "a.zip", zipped({"a.csv": TABLE, "b.zip": "x"}))
    assert values("a.zip") == [ROW]
    with pytest.raises(DataError, match=r"a\.zip/b\.zip: no format is known") as caught:
        values("a.zip/b.zip")
    assert caught.value.next_step == "unpack it"


@pytest.mark.parametrize("kept", ["a.txt", "a.csv"])
def test_a_file_about_the_data_is_no_data(tmp_path, all_records, write, kept):
    """Beside texts too; one that `ingest.source` names is read."""
    write(tmp_path / "data" / kept, "text\nhello\n")
    for name in ("README.md", "LICENSE", "License.txt", ".git/a.csv", ".hidden.txt"):
        write(tmp_path / "data" / name, "text\nnot this\n")
    for changes in ({}, {"format": "lines"}):
        first, *others = all_records("data", **changes)
        assert "3 of 4 files are left out" in first.warning
        assert all(record.origin.startswith(f"data/{kept}") for record in [first, *others])
    assert all_records("data/README.md")[0].values == {"text": "text\nnot this\n"}


def test_a_file_without_rows_is_a_bad_record(tmp_path, records, write):
    """In a folder, where no other message would name it."""
    write(tmp_path / "data" / "a.csv", "")
    write(tmp_path / "data" / "b.csv", TABLE)
    assert records("data") == [(None, "data/a.csv", "a file without rows"), (None, "data/b.csv:2", ROW)]


def test_an_image_outside_the_folders_of_the_labels_draws_a_warning(tmp_path, all_records, write):
    """Its label would be the name of the whole folder."""
    for name in ("a/1.png", "b/2.png", "cover.png"):
        write(tmp_path / "images" / name, "x")
    first, *_ = all_records("images")
    assert "1 of 3 files lie higher or deeper than the others: images/cover.png" in first.warning


def test_the_first_frame_of_several_is_read_with_a_warning(tmp_path, all_records):
    """A moving picture is one image."""
    frames = [Image.new("L", (2, 2), value) for value in (0, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    (record,) = all_records("a.gif")
    assert record.warning == "several frames, of which the first is read"


def test_strays_among_images_are_left_out_with_a_warning(tmp_path, all_records, write):
    """All of them at once; a README is no row, and no reason to stop."""
    for name in ("a/1.png", "b/2.png"):
        (tmp_path / "images" / name).parent.mkdir(parents=True)
        Image.new("L", (2, 2)).save(tmp_path / "images" / name)
    write(tmp_path / "images" / "Thumbs.db", b"\xd0\xcf\x11\xe0")
    write(tmp_path / "images" / "README.md", "# These images\n")
    first, second = all_records("images")
    assert (first.values["label"], second.values["label"], second.warning) == ("a", "b", "")
    assert first.warning == "2 of 4 files are left out, as the others are images: images/README.md, images/Thumbs.db"


def test_texts_in_folders_have_labels_by_format_folders(tmp_path, all_records, write):
    """And draw a warning that names it otherwise."""
    for name in ("pos", "neg"):
        write(tmp_path / "texts" / name / "1.txt", f"first {name}\n\nsecond\n")
    rows = [record.values for record in all_records("texts", format="folders")]
    assert rows == [{"text": f"first {name}\n\nsecond\n", "label": name} for name in ("neg", "pos")]
    first, *others = all_records("texts")
    assert "ingest.format: folders" in first.warning
    assert not any(record.warning for record in others)


def test_one_document_of_many_lines_draws_a_warning(tmp_path, all_records, write):
    """It may be lines, or a table; a text with blank lines is neither."""
    write(tmp_path / "a.txt", "".join(f"sentence {n};joy\n" for n in range(400)))
    (record,) = all_records("a.txt")
    assert record.warning.startswith("one document of 400 lines; ingest.format: lines makes each line one")
    assert "format: csv a table (semicolon: 2 fields" in record.warning
    write(tmp_path / "b.txt", "one\n" * 30 + "\n" + "two\n" * 30)
    assert not any(record.warning for record in all_records("b.txt"))
