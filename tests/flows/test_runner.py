from __future__ import annotations

import pytest

from flows.runner import NotReachedError, raise_failures
from pretune.errors import DataError, StageFailedError


def test_no_failure_raises_nothing():
    """All stages went well."""
    raise_failures([])


def test_failures_of_several_stages_become_one_error():
    """Every problem is kept, in order; code and next step are those of the first failure."""
    first = StageFailedError(["ingest: no file", "ingest: no text"], "fix it")
    first.exit_code = 4
    second = StageFailedError("scratch: failed", "pretune run")
    with pytest.raises(StageFailedError) as caught:
        raise_failures([NotReachedError("prepare: not reached"), first, second])
    assert caught.value.problems == ["ingest: no file", "ingest: no text", "scratch: failed"]
    assert (caught.value.exit_code, caught.value.next_step) == (4, "fix it")


def test_stages_that_only_waited_say_nothing():
    """A stage that did not run because another failed is not part of the message."""
    with pytest.raises(StageFailedError) as caught:
        raise_failures([StageFailedError("ingest: broken"), NotReachedError("prepare: not reached")])
    assert caught.value.problems == ["ingest: broken"]


def test_a_defect_of_ours_is_raised_as_it_is():
    """An exception that is no user's mistake keeps its traceback."""
    with pytest.raises(ZeroDivisionError):
        raise_failures([ZeroDivisionError(), NotReachedError("prepare: not reached")])


def test_a_defect_is_not_hidden_by_those_that_waited_for_it():
    """Whichever comes first in the list, the cause is raised and not its consequence."""
    with pytest.raises(ZeroDivisionError):
        raise_failures([NotReachedError("prepare: not reached"), ZeroDivisionError()])


def test_only_an_error_that_could_pass_is_worth_a_retry():
    """A crash may be tried again, a user's mistake would only be repeated."""
    assert StageFailedError("killed").retryable
    assert not getattr(DataError("no file"), "retryable", False)
