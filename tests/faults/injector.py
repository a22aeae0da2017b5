"""Makes one system call of a process fail: builds faults.c, which does it, and says what its names mean."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("faults.c")
FILE, NETWORK = ("kill", "full", "error"), ("kill", "reset", "hang")
KINDS = {  # of faults, by what the call does; `clock` comes where the time is read next: new names, starts, requests
    "open": FILE, "write": FILE, "mkdir": FILE, "link": FILE, "fsync": FILE, "truncate": ("kill", "error"),
    "rename": ("kill", "error", "clock"), "unlink": ("kill", "error"), "start": ("kill", "error", "clock"),
    "connect": (*NETWORK, "clock"), "send": NETWORK, "receive": NETWORK,
}  # fmt: skip
SQLITE = (
    "disk I/O error",
    "unable to open database file",
    "attempt to write a readonly database",
)  # all that it says, whatever the system says
CAUSES = {  # words of which the message of a failing run has to contain one
    "full": ("No space left on device", "disk is full", *SQLITE),
    "error": ("Input/output error", *SQLITE),
    "reset": ("reset", "refused", "aborted"),
    "hang": ("timed out", "does not answer", "takes long"),
}
CHANGING = re.compile(
    r"\b(?:\d{3,}|(?=[a-f]*\d)[0-9a-f]{6,}|tmp\w{6}|tmp\w{8})\b|(?<=/)[0-9a-f]{2}(?=/|$)"
    r"|(?<=/\.)[\w-]{22}(?=\.tmp)|\b(?=\w*[A-Z])\w{22}\b"
)


def build(folder: Path) -> Path:
    """The library of faults.c for LD_PRELOAD. FileNotFoundError without a C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise FileNotFoundError("a C compiler (cc) is needed")
    library = folder / "faults.so"
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl", "-lpthread"], check=True)
    return library


@dataclass(frozen=True, order=True)
class Point:
    """The `number`-th call of `what` (open, write, rename, connect, …) with `place` in one process."""

    what: str
    place: str
    number: int

    def __str__(self) -> str:
        """The name that faults.c gives it."""
        return f"{self.what} {self.place} {self.number}"

    @classmethod
    def parse(cls, name: str) -> Point:
        """The point of this name."""
        what, _, rest = name.partition(" ")
        place, _, number = rest.rpartition(" ")
        return cls(what, place, int(number))


def recorded(path: Path) -> list[Point]:
    """The points of a recording, in their order."""
    return [Point.parse(line) for line in path.read_text(encoding="utf-8").splitlines()]


def group(point: Point) -> tuple[str, str]:
    """What calls have in common that count as repetitions of one.

    DVC's databases of what it has hashed are one place, as are artifacts, and all that is removed from a folder.
    """
    place = point.place
    for many in (".dvc/tmp/site/", "mlflow.db", "/mlflow-artifacts/"):
        place = many if many in place else place
    place = place.rpartition("/")[0] if point.what == "unlink" else place
    return point.what, re.sub(r"\d+", "*", place)


def selected(points: Iterable[Point]) -> list[Point]:
    """The first, the middle and the last of each group: a loop has thousands of calls."""
    groups: dict[tuple[str, str], list[Point]] = defaultdict(list)
    for point in points:
        groups[group(point)].append(point)
    return [p for many in groups.values() for p in dict.fromkeys([many[0], many[len(many) // 2], many[-1]])]


def faults(points: Iterable[Point]) -> Iterator[tuple[Point, str]]:
    """Each point with each kind of fault that it can have."""
    for point in points:
        for kind in KINDS[point.what]:
            if kind != "clock" or point.number == 1:
                yield point, kind


def environment(process: str, folder: Path, **values: Any) -> dict[str, str]:
    """The variables of faults.c. process: the words its command line begins with; values: record, point, kind."""
    given = {"process": process, "folder": folder, "fired": folder / "fired", **values}
    return {f"FAULTS_{key.upper()}": str(value) for key, value in given.items()}
