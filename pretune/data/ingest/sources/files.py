"""Files: found by name, folder or glob, and opened with or without compression."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import os
import re
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

import pyarrow as pa
from typing_extensions import override

from pretune.errors import DataError, did_you_mean

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
SHORT = {".tgz": ".gz", ".tbz2": ".bz2", ".txz": ".xz"}  # of compressed .tar
BROKEN = (  # what reading a broken or unsupported file raises
    OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError, NotImplementedError,
)  # fmt: skip
POINTER = b"version https://git-lfs"  # the first line of a pointer (git-lfs, docs/spec.md)
MAGIC = {
    b"\x1f\x8b": ".gz", b"BZh": ".bz2", b"\xfd7zXZ": ".xz", b"\x28\xb5\x2f\xfd": ".zst", b"PK\x03\x04": ".zip",
    b"PAR1": ".parquet", b"ARROW1": ".arrow", b"%PDF-": ".pdf", b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg",
    b"SQLite format 3": ".db",
}  # fmt: skip
CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a]")  # no text holds it: a word may begin like a magic number, as `PAR1`
PAGE = re.compile(rb"\s*<(!doctype\s+html|html)\b", re.IGNORECASE)
PROSE = (".txt", ".md", "")  # may be HTML
SHOWN = 10  # names in a message
HEAD = 4096  # bytes that tell text from other content
ZEROS = 0.01  # share of zero bytes from which it is no text
FREE = 2**28  # bytes, and characters of a table, that any file may unpack to
EXPANSION = 200  # times its own size that a larger one may unpack to; text comes to 10, a bomb to 1,000 and more
CACHED = re.compile(r"/files/md5/[0-9a-f]{2}/[0-9a-f]{30}(\.dir|$)")  # a file in a cache of DVC
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
UTF_32 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)


@dataclass(frozen=True)
class File:
    """A file: its name in origins, and a function that opens it. size: of what that gives, where it does not tell."""

    name: str
    open_raw: Callable[[], Any]
    size: int | None = None

    @property
    def ending(self) -> str:
        """The ending that determines the format: `.csv` of `a.csv.gz`, `.idx` of `images-ubyte`."""
        path = PurePosixPath(self.name.lower().removesuffix(self._compression))
        return ".idx" if path.name.endswith("ubyte") else path.suffix

    @property
    def _compression(self) -> str:
        suffix = PurePosixPath(self.name).suffix.lower()
        return SHORT.get(suffix, suffix if suffix in COMPRESSED else "")

    @contextmanager
    def binary(self) -> Iterator[BinaryIO]:
        """Open the decompressed bytes. Raises DataError where they cannot be read, or are a pointer to others.

        While they are read it raises DataError as soon as there are too many for the size of the file.
        """
        try:
            with self.open_raw() as raw, self._unpacked(raw) as stream:
                self._check_pointer(stream.peek(len(POINTER)))  # type: ignore[attr-defined]
                yield stream
        except BROKEN as error:
            raise DataError(f"{self.name}: cannot be read ({error})", "download or compress the file again") from None

    def _unpacked(self, raw: Any) -> BinaryIO:
        if not self._compression:
            return _decompressed(raw, "")
        bounded = _Bounded(self, _decompressed(raw, self._compression), limit(self._size(raw)))
        return io.BufferedReader(bounded, _Bounded.CHUNK)

    def _size(self, raw: Any) -> int:
        return os.fstat(raw.fileno()).st_size if self.size is None else self.size

    def bomb(self, step: str = "") -> DataError:
        """The error for a file that unpacks to more than `limit` allows. step: the way on, where it is another."""
        return DataError(
            f"{self.name}: unpacks to more than {EXPANSION} times its size, as a decompression bomb does",
            step or f"if you trust it, unpack {self.name} yourself",
        )

    @contextmanager
    def seekable(self) -> Iterator[BinaryIO]:
        """Open the decompressed bytes for random access: a compressed file is decompressed into a temporary one."""
        with ExitStack() as stack:
            raw: Any = stack.enter_context(self.open_raw())
            if self._compression or not isinstance(raw, io.BufferedReader):
                raw = stack.enter_context(tempfile.TemporaryFile())
                with self.binary() as stream:
                    shutil.copyfileobj(stream, raw)
                raw.seek(0)
            start = raw.read(HEAD)
            self._check_pointer(start)
            self._check_page(start)
            raw.seek(0)
            yield raw

    def lines(self, encoding: str) -> Iterator[str]:
        r"""The lines with their ends. `\n` ends one, with or without `\r` before it; U+2028 and `\r` alone do not.

        A byte order mark is left out. Bytes that are invalid in the encoding become lone surrogates, which cleaning
        finds. Raises DataError for a text in UTF-16 that is read otherwise, and where all lines end in `\r` alone.
        """
        name = codecs.lookup(encoding).name
        with self.binary() as stream:
            start = stream.peek(HEAD)[:HEAD]  # type: ignore[attr-defined]
            self._check_text(start, name)
            if start.startswith(UTF_16 + UTF_32) and name.startswith(("utf-16", "utf-32")):
                name = name[:6]  # the mark tells the order of the bytes, and is left out
            try:
                text = io.TextIOWrapper(
                    stream, encoding="utf-8-sig" if name == "utf-8" else name, errors="surrogateescape", newline="\n"
                )
                first = next(text, "")
                if "\r" in first.rstrip("\r") and not first.endswith("\n"):
                    raise DataError(
                        f"{self.name}: its lines end in carriage returns alone",
                        f"tr '\\r' '\\n' < {self.name} > NEW   (then name NEW in ingest.source)",
                    )
                yield from chain([first] if first else [], text)
            except UnicodeError as error:
                raise DataError(f"{self.name}: not in {encoding} ({error})", "set ingest.encoding") from None

    def _check_pointer(self, start: bytes) -> None:
        """Raise DataError for a pointer to a file that was not downloaded."""
        if start.startswith(POINTER):
            raise DataError(f"{self.name}: a pointer of Git LFS, not the file itself", "git lfs pull")

    def _check_page(self, start: bytes) -> None:
        """Raise DataError where a table is a web page: a message of the server, or a page about the file."""
        if self.ending not in PROSE and PAGE.match(start):
            raise DataError(f"{self.name}: a web page (HTML), not the file itself", "download the file itself")

    def _check_text(self, start: bytes, encoding: str) -> None:
        """Raise DataError where the first bytes are those of another encoding, of a compressed file or of none."""
        wide = encoding.startswith(("utf-16", "utf-32"))
        if start.startswith(UTF_16 + UTF_32) and not wide:
            found = "utf-32" if start[:4] in UTF_32 else "utf-16"
            raise DataError(f"{self.name}: begins with the mark of {found}", f"set ingest.encoding: {found}")
        ending = next((ending for magic, ending in MAGIC.items() if start.startswith(magic)), "")
        if ending and CONTROL.search(start):
            raise DataError(
                f"{self.name}: the content is that of a {ending} file", f"rename it so that it ends in {ending}"
            )
        self._check_page(start)
        if not wide and start.count(0) > len(start) * ZEROS:
            raise DataError(
                f"{self.name}: binary, not text: {start.count(0)} of its first {len(start)} bytes are zero",
                "name another file in ingest.source, or set ingest.encoding: utf-16-le if it is text",
            )


def limit(size: int) -> int:
    """How much a file of `size` bytes may unpack to."""
    return max(FREE, EXPANSION * size)


class _Bounded(io.RawIOBase):
    """A stream that raises DataError when more than `allowed` bytes were read from it."""

    CHUNK = 2**20

    def __init__(self, file: File, stream: BinaryIO, allowed: int) -> None:
        self._file, self._stream, self._left = file, stream, allowed

    @override
    def readable(self) -> bool:
        return True

    @override
    def readinto(self, buffer: Any) -> int:
        part = self._stream.read(len(buffer))
        buffer[: len(part)] = part
        self._left -= len(part)
        if self._left < 0:
            raise self._file.bomb()
        return len(part)

    @override
    def close(self) -> None:
        self._stream.close()
        super().close()


def _decompressed(raw: Any, suffix: str) -> BinaryIO:
    """The decompressed bytes. Arrow reads zstd, but it takes a truncated .gz for a complete one."""
    if suffix == ".gz":
        return cast("BinaryIO", gzip.GzipFile(fileobj=raw))
    if suffix == ".bz2":
        return cast("BinaryIO", bz2.BZ2File(raw))
    if suffix == ".xz":
        return cast("BinaryIO", lzma.LZMAFile(raw))
    return io.BufferedReader(pa.input_stream(raw, compression="zstd" if suffix == ".zst" else None))


def local(start: str, pattern: str, base: Path, *, outside: bool = True) -> list[File]:
    """The files of a path, a folder or a glob, sorted by name.

    start: the fixed part of the place, `base` its location; pattern: the rest, "" without one. A folder stands for the
    files in it at any depth, but for hidden ones. outside: whether links may lead out of the workspace. Raises
    DataError where there is no file, and for links that lead to nothing or to a folder, into which no glob goes.
    """
    if not base.exists():
        raise missing(start, base)
    matches = sorted(base.glob(pattern or "**/*")) if base.is_dir() else [base]
    candidates = [path for path in matches if not _is_hidden(path.relative_to(base))]
    paths = [path for path in candidates if path.is_file()]
    if lost := [path for path in candidates if path != base and path.is_symlink() and not path.is_file()]:
        raise DataError(
            [f"ingest.source: {path.relative_to(base.parent)} is a link that is not followed" for path in lost[:SHOWN]],
            "name the folder that it leads to in ingest.source, or remove the link",
        )
    if not paths:
        place = f"{start}/{pattern}" if pattern else start
        found = sorted({path.suffix for path in base.glob("**/*") if path.suffix and path.is_file()})[:SHOWN]
        hint = f"; the files there end in {', '.join(found)}" if pattern and found else ""
        raise DataError(f"ingest.source: {place} holds no files{hint}", "correct ingest.source, then: pretune run")
    if not outside:
        check_links(start, base, paths)
    prefix = PurePosixPath(start).name if start.startswith("/") else start  # no output holds an absolute path
    names = [str(PurePosixPath(prefix) / path.relative_to(base).as_posix()) for path in paths]
    return [File(name, partial(path.open, "rb")) for name, path in zip(names, paths, strict=True)]


def check_links(start: str, base: Path, paths: Iterable[Path]) -> None:
    """Raise DataError for paths that are, or lie behind, links out of the workspace.

    start: a path in the workspace, `base` its location. Such a link can come with somebody's branch, and would make any
    file of this machine a part of the data. DVC's caches are part of the workspace wherever they are.
    """
    depth = len(PurePosixPath(start).parts)
    workspace = os.path.realpath(base.parents[depth - 1] if depth else base)
    folder = cache(os.path.realpath)
    for path in paths:
        target = Path(os.path.realpath(path) if path.is_symlink() else Path(folder(path.parent), path.name))
        if not target.is_relative_to(workspace) and not CACHED.search(str(target)):
            raise DataError(
                f"ingest.source: {start} holds a link out of the workspace, to {target}",
                "add outside to ingest.allow in params.yaml",
            )


def missing(start: str, base: Path) -> DataError:
    """The error for a path that is not there, with the nearest name at the place where it parts from those that are."""
    if base.with_name(f"{base.name}.dvc").exists():
        return DataError(f"ingest.source: {start} is in DVC, but not in the workspace", f"dvc pull {start}.dvc")
    while not base.parent.exists():
        base = base.parent
    hint = did_you_mean(base.name, [path.name for path in base.parent.iterdir()] if base.parent.is_dir() else [])
    return DataError(f"ingest.source: no file {start}{hint}", "correct ingest.source, then: pretune run")


def _is_hidden(path: Path) -> bool:
    """Whether a file or a folder that it lies in is hidden: a copy of an editor, of a notebook or of git."""
    return any(part.startswith(".") for part in path.parts)
