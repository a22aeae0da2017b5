"""Errors that end in a message, each with its exit code and the next command to run.

| code | meaning |
|---|---|
| 0 | done |
| 1 | a defect in Pretune itself (with a traceback) |
| 2 | a command line that does not parse |
| 3 | parameters or the graph are wrong |
| 4 | data or a file is missing or wrong |
| 5 | another run holds a lock |
| 6 | a stage failed |
| 7 | inputs changed while a stage was running |
| 8 | training diverged (a loss that is not finite) |
| 9 | the environment is unsuitable (no git, a wrong interpreter, a missing package) |
| 10 | `doctor` found a problem; `stack status`: a part is not healthy |
| 11 | training does not fit into memory |
| 12 | the gate rejected a model; `reproduce`: the outputs differ |
| 13 | the disk is full, or it or another part of the machine failed |
| 14 | a server refuses: a wrong password, no permission |
| 130, 143 | stopped by Ctrl-C, by SIGTERM |
"""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Iterable


class PretuneError(Exception):
    """An error that the user can fix. problems: one line for each problem found. next_step: the next command."""

    exit_code = 1

    def __init__(self, problems: str | Iterable[str], next_step: str = "") -> None:
        self.problems = [readable(line) for line in ([problems] if isinstance(problems, str) else problems)]
        self.next_step = readable(next_step)
        super().__init__("\n".join(self.problems))

    def as_dict(self) -> dict[str, object]:
        """The error as it is stored in `.pretune/last-error.json`."""
        return {
            "kind": type(self).__name__,
            "exit_code": self.exit_code,
            "problems": self.problems,
            "next_step": self.next_step,
        }


class ParamsError(PretuneError):
    """params.yaml (or --set) holds values that cannot be used."""

    exit_code = 3


class GraphError(PretuneError):
    """dvc.yaml is invalid, has a cycle, or lacks the stage."""

    exit_code = 3


class UndeclaredInputError(PretuneError):
    """A stage uses a path or parameter that dvc.yaml does not declare for it."""

    exit_code = 3


class DataError(PretuneError):
    """A file is missing, empty or malformed."""

    exit_code = 4


class NotFoundInRecordsError(PretuneError):
    """No run, file or hash has this name."""

    exit_code = 4


class LockedError(PretuneError):
    """Another process holds the lock."""

    exit_code = 5


class StageFailedError(PretuneError):
    """Stages of a pipeline run failed. retryable: False if the user made a mistake, which a retry would repeat."""

    exit_code = 6
    retryable = True


class InputsChangedError(PretuneError):
    """Parameters, code or data changed while the stage that reads them was running."""

    exit_code = 7


class DivergedError(PretuneError):
    """The loss was not a finite number."""

    exit_code = 8


class DoesNotFitError(PretuneError):
    """Training needs more memory than there is."""

    exit_code = 11


class WorkspaceError(PretuneError):
    """The environment is unsuitable: no git, no workspace, a wrong interpreter."""

    exit_code = 9


class RefusedError(PretuneError):
    """A server does not know the user, or does not let them do that."""

    exit_code = 14


class TerminatedError(PretuneError):
    """SIGTERM arrived."""

    exit_code = 143


class MachineError(PretuneError):
    """The disk is full, or it or another part of the machine failed."""

    exit_code = 13


FULL, BROKEN = "free space on this disk, then the same command again", "check the disk, then the same command again"
MACHINE = {  # what the system, or SQLite, says of a fault of the machine, and the next step
    **{os.strerror(number): FULL for number in (errno.ENOSPC, errno.EDQUOT)},
    **{os.strerror(number): BROKEN for number in (errno.EIO, errno.EROFS)},
    "database or disk is full": FULL,
    **dict.fromkeys(
        ("disk I/O error", "unable to open database file", "attempt to write a readonly database"),
        "see whether this disk is full, or failing; then the same command again",
    ),
}


def machine_error(error: BaseException) -> MachineError | None:
    """The fault of the machine that an error is, was made of or quotes, as packages do; None if it is another."""
    cause: BaseException | None = error
    while cause:
        for words, step in MACHINE.items():
            if words in str(cause):
                place = f" ({cause.filename})" if isinstance(cause, OSError) and cause.filename else ""
                return MachineError(f"{words}{place}", step)
        cause = cause.__cause__ or cause.__context__
    return None


def readable(text: str) -> str:
    """A text for a terminal or a page: control characters and halves of characters are escaped, line by line."""
    return "\n".join(line if line.isprintable() else repr(line)[1:-1] for line in text.split("\n"))


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """Return ' (did you mean X?)' with the nearest allowed word, or ''."""
    matches = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.6)
    return f" (did you mean {matches[0]}?)" if matches else ""
