"""Small valid files of every format that is read, and what may happen to them on their way: `mutated`."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import sqlite3
import tarfile
import tempfile
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st
from PIL import Image

TABLE = b'text,label,score\n"a, b",1,0.5\nwaves ""salt"",2,-1e5\n"two\nlines",x,3\n'
LINES = b"one line\n\ntwo lines\r\nthree \xc3\xbc\n"
ROWS = [
    {"text": "a", "label": 1},
    {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
    {"question": "q", "context": "the c", "answers": {"text": ["the"], "answer_start": [0]}},
    {"words": ["a", "b"], "tags": "['O', 'B-X']"},
    {"prompt": "p", "chosen": "c", "rejected": "r"},
]
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
SQUAD = json.dumps({
    "data": [{"title": "t", "paragraphs": [
        {"context": "the c", "qas": [{"id": "1", "question": "q", "answers": [{"text": "the", "answer_start": 0}]}]}
    ]}]
}).encode()  # fmt: skip
CONLL = b"-DOCSTART- O\n\nWombats B-X\nsleep O\n\n# sent_id = 1\nall O\nday I-Y\n"
# What decides about sizes, depths and meanings where it stands.
TOKENS = [
    b"\xff\xff\xff\xff", b"\x00\x00\x00\x80", b"\x7f\xff\xff\xff", b"9" * 30, b"1e400", b"-1", b"NaN", b"null", b"true",
    b'"', b"'", b"[" * 50, b"{" * 50, b'{"a":', b"\\", b"\n", b"\r", b"\x00", b"\xe2\x80\xa8", b"\xed\xa0\x80", b",",
    b":", b"&a ", b"*a", b"<<: ", b"!!set ", b"2001-99-99", b"!!bool x", b"---\n", b"\t", b"- ", b"? ", b"${x}", b"%",
]  # fmt: skip


def _table() -> pa.Table:
    return pa.table(
        {
            "text": ["a", None, "c"],
            "label": pa.array([1, 2, None], pa.int64()),
            "kind": pa.array(["x", "y", "x"]).dictionary_encode(),
            "answers": [{"text": ["a"], "answer_start": [0]}, None, {"text": [], "answer_start": []}],
            "when": pa.array([0, 1, None], pa.timestamp("s")),
        }
    )


def _arrow(new) -> bytes:
    table, sink = _table(), io.BytesIO()
    with new(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _parquet() -> bytes:
    sink = io.BytesIO()
    pq.write_table(_table(), sink)
    return sink.getvalue()


def _image(kind: str, mode: str = "RGB", **options) -> bytes:
    sink = io.BytesIO()
    Image.new(mode, (6, 5)).save(sink, kind, **options)
    return sink.getvalue()


def _zip() -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("in/a.csv", TABLE)
        archive.writestr("in/b.jsonl", JSONL)
    return sink.getvalue()


def _tar(mode: str) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode=mode) as archive:
        entry = tarfile.TarInfo("in/a.csv")
        entry.size = len(TABLE)
        archive.addfile(entry, io.BytesIO(TABLE))
    return sink.getvalue()


def _xlsx() -> bytes:
    import openpyxl

    book, sink = openpyxl.Workbook(), io.BytesIO()
    for row in (["text", "label"], ["a", 1], ["b", "=1+1"]):
        book.active.append(row)
    book.save(sink)
    return sink.getvalue()


def _sqlite() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        connection = sqlite3.connect(Path(folder) / "x.db")
        connection.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, text TEXT, label TEXT)")
        connection.execute("INSERT INTO rows (text, label) VALUES ('a', 'x'), ('b', 'y')")
        connection.commit()
        connection.close()
        return (Path(folder) / "x.db").read_bytes()


@cache
def data() -> dict[str, bytes]:
    """{file name: content} of every format that `ingest` reads."""
    idx = b"\0\0\x08\x03" + np.array([2, 2, 2], ">u4").tobytes() + bytes(8)
    many = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
    many[".zst"] = lambda content: bytes(pa.compress(content, codec="zstd", asbytes=True))
    return {
        "a.txt": LINES, "a.csv": TABLE, "a.tsv": TABLE.replace(b",", b"\t"), "a.jsonl": JSONL, "a.conll": CONLL,
        "a.json": json.dumps(ROWS).encode(), "squad.json": SQUAD, "a.parquet": _parquet(), "a-ubyte": idx,
        "file.arrow": _arrow(pa.ipc.new_file), "stream.arrow": _arrow(pa.ipc.new_stream), "a.xlsx": _xlsx(),
        "a.zip": _zip(), "a.tar": _tar("w:"), "a.tgz": _tar("w:gz"), "a.db": _sqlite(),
        "a.png": _image("PNG"), "p.png": _image("PNG", "P"), "d.png": _image("PNG", "I;16"), "a.jpg": _image("JPEG"),
        "a.gif": _image("GIF", "L", save_all=True, append_images=[Image.new("L", (6, 5), 9)]), "a.bmp": _image("BMP"),
        "a.tif": _image("TIFF", "F"), "b.tif": _image("TIFF", "L", compression="tiff_lzw"), "a.webp": _image("WEBP"),
        **{f"a.csv{ending}": pack(TABLE) for ending, pack in many.items()},
    }  # fmt: skip


@st.composite
def mutated(draw, content: bytes) -> bytes:
    """The content as it is, or damaged at some places, or any bytes at all."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=200))
    damaged = bytearray(content)
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(damaged)))
        end = min(len(damaged), start + draw(st.integers(0, 12)))
        kind = draw(st.sampled_from(["replace", "token", "insert", "cut", "repeat", "end"]))
        if kind == "replace":
            damaged[start:end] = draw(st.binary(min_size=end - start, max_size=end - start))
        elif kind == "token":
            damaged[start:end] = draw(st.sampled_from(TOKENS))
        elif kind == "insert":
            damaged[start:start] = draw(st.one_of(st.sampled_from(TOKENS), st.binary(max_size=8)))
        elif kind == "cut":
            del damaged[start:end]
        elif kind == "repeat":
            damaged[start:start] = damaged[start:end] * draw(st.integers(1, 50))
        else:
            del damaged[start:]
    return bytes(damaged)
