"""Members of .zip and .tar archives, read in place: none is unpacked into a folder."""

from __future__ import annotations

import io
import mmap
import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import partial
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from typing_extensions import override

from pretune.config.source_spec import ARCHIVES
from pretune.data.ingest.sources.files import BROKEN, File, limit
from pretune.errors import DataError

Members = dict[str, tuple[Callable[[], Any], int]]  # {name: what opens it, its size}

ENCRYPTED = 1  # a flag of .zip (APPNOTE.TXT 4.4.4)


def members(file: File, pattern: str = "") -> list[File]:
    """The files in an archive that match a pattern, sorted by name; the file itself where it is none.

    Hidden members and those of `__MACOSX/` are left out. Raises DataError for an archive that is broken, encrypted or
    a bomb, for a member that leads out of it, and where no member matches. A member that is a link fails when it is
    opened.
    """
    if not file.name.lower().endswith(ARCHIVES):
        return [file]
    try:
        found = _zipped(file) if file.ending == ".zip" else _tarred(file)
    except (*BROKEN, ValueError, IndexError) as error:  # IndexError: a member without a name
        raise DataError(f"{file.name}: cannot be read ({error})", "download the archive again") from None
    if outside := [name for name in found if ".." in PurePosixPath(name).parts]:
        raise DataError(f"{file.name}: its member {outside[0]} leads out of it", "ask who made it for another")
    chosen = {name: member for name, member in found.items() if _is_chosen(name, pattern)}
    if not chosen:
        raise DataError(f"ingest.source: {file.name} holds no {pattern or 'files'}", "correct ingest.source")
    return [File(f"{file.name}/{name}", opener, size) for name, (opener, size) in sorted(chosen.items())]


def _is_chosen(name: str, pattern: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    wanted = PurePosixPath(pattern)
    inside = not pattern or name == pattern or wanted in path.parents or _matches(path.parts, wanted.parts)
    return inside and not hidden


def _matches(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Whether a path matches a pattern as in pathlib's glob: `**` is any number of folders."""
    if not pattern or not parts:
        return not parts and all(part == "**" for part in pattern)
    if pattern[0] == "**":
        return _matches(parts, pattern[1:]) or _matches(parts[1:], pattern)
    return fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _zipped(file: File) -> Members:
    content = _mapped(file)
    archive = zipfile.ZipFile(content)
    entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    check_sizes(file, archive, content.seek(0, os.SEEK_END))
    if any(entry.flag_bits & ENCRYPTED for entry in entries):
        raise DataError(f"{file.name}: is encrypted", f"unpack {file.name} yourself")
    names = [entry.filename.replace("\\", "/") for entry in entries]  # as Windows writes some
    if repeated := sorted(name for name, count in Counter(names).items() if count > 1):
        raise DataError(f"{file.name}: two members are called {', '.join(repeated)}", f"unpack {file.name} yourself")
    return {
        name: (partial(_open_zipped, archive, entry), entry.file_size)
        for name, entry in zip(names, entries, strict=True)
    }


def check_sizes(file: File, archive: zipfile.ZipFile, size: int) -> None:
    """Raise DataError for a .zip of `size` bytes that unpacks to too many. No member gives more than it declares."""
    if sum(entry.file_size for entry in archive.infolist()) > limit(size):
        raise file.bomb()


def _open_zipped(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Any:
    if stat.S_ISLNK(entry.external_attr >> 16):  # its content would be the name of another file
        raise zipfile.BadZipFile("a link, which is not followed")
    return archive.open(entry)


def _tarred(file: File) -> Members:
    content = _mapped(file)
    archive = tarfile.open(fileobj=content, mode="r:")  # noqa: SIM115 - open as long as its members are
    entries = archive.getmembers()
    content.seek(archive.offset)
    if content.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:  # one cut between two members ends without
        raise tarfile.ReadError("unexpected end of data")
    return {
        entry.name.removeprefix("./"): (partial(_open_tarred, archive, entry), entry.size)
        for entry in entries
        if entry.isreg() or entry.islnk() or entry.issym()
    }


def _open_tarred(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> Any:
    """The content of a member; of a hard link that of the member before it which it names."""
    if entry.issym():
        raise tarfile.ReadError(f"a link to {entry.linkname}, which is not followed")
    try:
        return archive.extractfile(entry)
    except (KeyError, RecursionError):
        raise tarfile.ReadError(f"a link to {entry.linkname}, which is not in the archive") from None


def _mapped(file: File) -> BinaryIO:
    """The decompressed bytes of an archive. A compressed .tar goes into a temporary file.

    Otherwise it would be read from its start for each member.
    """
    with tempfile.TemporaryFile() as temporary, file.open_raw() as raw:
        if not file.name.lower().endswith((".zip", ".tar")):
            with file.binary() as stream:
                shutil.copyfileobj(stream, temporary)
            raw = temporary  # noqa: PLW2901
        raw.flush()
        return io.BufferedReader(_Mapped(mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ)))


class _Mapped(io.RawIOBase):
    """A memory-mapped file, which is closed when nothing refers to it any more."""

    def __init__(self, content: mmap.mmap) -> None:
        self._content = content

    @override
    def readable(self) -> bool:
        return True

    @override
    def seekable(self) -> bool:
        return True

    @override
    def readinto(self, buffer: Any) -> int:
        part = self._content.read(len(buffer))
        buffer[: len(part)] = part
        return len(part)

    @override
    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            self._content.seek(offset, whence)  # type: ignore[arg-type]
        except ValueError as error:
            raise OSError(str(error)) from None
        return self._content.tell()
