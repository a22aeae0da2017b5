"""Files: found by name, folder or glob, opened wherever they are and however they are compressed."""

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

from pretune.config.source_spec import fixed
from pretune.errors import DataError, did_you_mean

COMPRESSED = (".gz", ".bz2", ".zst")


@dataclass(frozen=True)
class File:
    """A file: the name that origins carry, and how its bytes are had."""

    name: str
    open_raw: Callable[[], Any]

    @property
    def ending(self) -> str:
        """The ending that tells the format: `.csv` of `a.csv.gz`; `ubyte` counts as one."""
        path = PurePosixPath(self.name.removesuffix(self._compression))
        return ".idx" if path.name.endswith("ubyte") else path.suffix.lower()

    @property
    def _compression(self) -> str:
        suffix = PurePosixPath(self.name).suffix
        return suffix if suffix in COMPRESSED else ""

    @contextmanager
    def binary(self) -> Iterator[BinaryIO]:
        """The bytes, decompressed. Raises DataError where they break off or cannot be read."""
        try:
            with self.open_raw() as raw, _decompressed(raw, self._compression) as stream:
                yield stream
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{self.name}: cannot be read ({error})", "fetch or compress the file anew") from None

    @contextmanager
    def seekable(self) -> Iterator[BinaryIO]:
        """The same, to move about in: a compressed file is laid out in a temporary one."""
        with ExitStack() as stack:
            if self._compression:
                whole = stack.enter_context(tempfile.TemporaryFile())
                with self.binary() as stream:
                    shutil.copyfileobj(stream, whole)
                whole.seek(0)
            else:
                whole = stack.enter_context(self.open_raw())
            yield whole

    @contextmanager
    def text(self, encoding: str, newline: str | None = None) -> Iterator[TextIO]:
        """The text; a byte that is none in this encoding becomes half a surrogate pair, which checks find."""
        encoding = "utf-8-sig" if encoding == "utf-8" else encoding
        with self.binary() as stream:
            yield io.TextIOWrapper(stream, encoding=encoding, errors="surrogateescape", newline=newline)


def _decompressed(raw: Any, suffix: str) -> BinaryIO:
    """The bytes of a file; Arrow knows zstd, but takes a .gz that breaks off for a whole one."""
    if suffix == ".gz":
        return cast("BinaryIO", gzip.GzipFile(fileobj=raw))
    if suffix == ".bz2":
        return cast("BinaryIO", bz2.BZ2File(raw))
    return io.BufferedReader(pa.input_stream(raw, compression="zstd" if suffix == ".zst" else None))


def local(place: str, base: Path) -> list[File]:
    """The files that a path, a folder or a glob means, by name; `base` is where its fixed part lies.

    A folder means the files in it at any depth whose names do not begin with a dot. Raises DataError
    where there is none.
    """
    start = fixed(place)
    pattern = place.removeprefix(start).strip("/")
    if not base.exists():
        near = did_you_mean(base.name, [p.name for p in base.parent.glob("*")] if base.parent.is_dir() else [])
        raise DataError(f"ingest.source: no file {start}{near}", "pretune run --set ingest.source=pydocs")
    found = sorted(base.glob(pattern or "**/*")) if pattern or base.is_dir() else [base]
    kept = [path for path in found if path.is_file() and not path.name.startswith(".")]
    if not kept:
        raise DataError(f"ingest.source: {place} holds no files", "mend ingest.source, then: pretune run")
    prefix = PurePosixPath(start).name if start.startswith("/") else start  # no output holds an absolute path
    names = [str(PurePosixPath(prefix) / path.relative_to(base).as_posix()) for path in kept]
    return [File(name, partial(path.open, "rb")) for name, path in zip(names, kept, strict=True)]
