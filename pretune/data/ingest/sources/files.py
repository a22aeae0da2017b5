"""Files: found by name, folder or glob, and opened with or without compression."""

from __future__ import annotations

import bz2
import gzip
import io
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TextIO, cast

import pyarrow as pa

from pretune.config.source_spec import fixed_prefix
from pretune.errors import DataError, did_you_mean

COMPRESSED = (".gz", ".bz2", ".zst")


@dataclass(frozen=True)
class File:
    """A file: its name in origins, and a function that opens it."""

    name: str
    open_raw: Callable[[], Any]

    @property
    def ending(self) -> str:
        """The ending that determines the format: `.csv` of `a.csv.gz`, `.idx` of `images-ubyte`."""
        path = PurePosixPath(self.name.removesuffix(self._compression))
        return ".idx" if path.name.endswith("ubyte") else path.suffix.lower()

    @property
    def _compression(self) -> str:
        suffix = PurePosixPath(self.name).suffix
        return suffix if suffix in COMPRESSED else ""

    @contextmanager
    def binary(self) -> Iterator[BinaryIO]:
        """Open the decompressed bytes. Raises DataError where they are truncated or cannot be read."""
        try:
            with self.open_raw() as raw, _decompressed(raw, self._compression) as stream:
                yield stream
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{self.name}: cannot be read ({error})", "download or compress the file again") from None

    @contextmanager
    def seekable(self) -> Iterator[BinaryIO]:
        """Open the decompressed bytes for random access: a compressed file is decompressed into a temporary one."""
        with ExitStack() as stack:
            if self._compression:
                file = stack.enter_context(tempfile.TemporaryFile())
                with self.binary() as stream:
                    shutil.copyfileobj(stream, file)
                file.seek(0)
            else:
                file = stack.enter_context(self.open_raw())
            yield file

    @contextmanager
    def text(self, encoding: str, newline: str | None = None) -> Iterator[TextIO]:
        """Open the text; bytes that are invalid in this encoding become lone surrogates, which cleaning finds."""
        encoding = "utf-8-sig" if encoding == "utf-8" else encoding
        with self.binary() as stream:
            yield io.TextIOWrapper(stream, encoding=encoding, errors="surrogateescape", newline=newline)


def _decompressed(raw: Any, suffix: str) -> BinaryIO:
    """The decompressed bytes. Arrow reads zstd, but it takes a truncated .gz for a complete one."""
    if suffix == ".gz":
        return cast("BinaryIO", gzip.GzipFile(fileobj=raw))
    if suffix == ".bz2":
        return cast("BinaryIO", bz2.BZ2File(raw))
    return io.BufferedReader(pa.input_stream(raw, compression="zstd" if suffix == ".zst" else None))


def local(place: str, base: Path) -> list[File]:
    """The files of a path, a folder or a glob, sorted by name; `base` is the location of its fixed part.

    A folder stands for the files in it at any depth, but for hidden ones. Raises DataError where there is none.
    """
    start = fixed_prefix(place)
    pattern = place.removeprefix(start).strip("/")
    if not base.exists():
        hint = did_you_mean(base.name, [p.name for p in base.parent.glob("*")] if base.parent.is_dir() else [])
        raise DataError(f"ingest.source: no file {start}{hint}", "pretune run --set ingest.source=pydocs")
    candidates = sorted(base.glob(pattern or "**/*")) if pattern or base.is_dir() else [base]
    paths = [path for path in candidates if path.is_file() and not path.name.startswith(".")]
    if not paths:
        raise DataError(f"ingest.source: {place} holds no files", "correct ingest.source, then: pretune run")
    prefix = PurePosixPath(start).name if start.startswith("/") else start  # no output holds an absolute path
    names = [str(PurePosixPath(prefix) / path.relative_to(base).as_posix()) for path in paths]
    return [File(name, partial(path.open, "rb")) for name, path in zip(names, paths, strict=True)]
