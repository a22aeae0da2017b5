from __future__ import annotations

import errno
import os

import pytest

from pretune import errors
from pretune.errors import DataError, PretuneError, did_you_mean

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, PretuneError)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_exit_code_is_documented(kind):
    """The table at the top of errors.py has a row for the code of every error."""
    documented = {code.strip() for row in errors.__doc__.splitlines() for code in row.split("|")[1:2]}
    documented |= {code.strip() for cell in documented for code in cell.split(",")}
    assert str(kind.exit_code) in documented


def test_a_fault_of_the_machine_is_recognised_however_it_is_told():
    """As the error itself, within another, or quoted by a library; any other error is a defect."""
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "models/a")
    try:
        try:
            raise full
        except OSError:
            raise TimeoutError from None
    except TimeoutError as error:
        wrapped = error
    for told in (full, wrapped):
        known = errors.machine_error(told)
        assert (known.exit_code, known.problems) == (13, ["No space left on device (models/a)"])
    assert "disk" in errors.machine_error(RuntimeError("I/O error: Input/output error (os error 5)")).next_step
    assert errors.machine_error(FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))) is None


def test_an_error_holds_every_problem():
    """One text or many: `problems` is a list, and the dict for last-error.json holds all of it."""
    error = errors.DataError(["one", "two"], "fix them")
    assert error.as_dict() == {
        "kind": "DataError",
        "exit_code": 4,
        "problems": ["one", "two"],
        "next_step": "fix them",
    }
    assert errors.DataError("one").problems == ["one"]


def test_the_nearest_word_is_suggested_only_where_it_is_near():
    """A misspelling gets a suggestion, another word none."""
    assert did_you_mean("fintune", ["finetune", "pretrain"]) == " (did you mean finetune?)"
    assert not did_you_mean("xyz", ["finetune", "pretrain"])


def test_a_message_holds_no_control_characters():
    """Whatever a file or a command line holds: a terminal would obey it. Lines stay lines."""
    error = DataError(["a\x1b[31mb", "é\x00\ud800", "two\nlines"], "rm \x07")
    assert error.problems == ["a\\x1b[31mb", "é\\x00\\ud800", "two\nlines"]
    assert error.next_step == "rm \\x07"
