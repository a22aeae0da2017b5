"""DVC's exceptions as errors of Pretune."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pretune.errors import GraphError, LockedError, PretuneError, RefusedError, WorkspaceError


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn DVC's exceptions into ours: a mistake in dvc.yaml never ends in a traceback."""
    from dvc.exceptions import CyclicGraphError, DvcException
    from dvc.lock import LockError
    from dvc.utils.strictyaml import YAMLValidationError
    from dvc_objects.errors import ObjectFormatError
    from networkx import NetworkXError
    from ruamel.yaml.error import YAMLError

    try:
        yield
    except PretuneError:
        raise
    except LockError as error:
        raise LockedError(str(error).splitlines()[0], "wait for the other dvc command to end") from error
    except CyclicGraphError as error:
        raise GraphError(f"dvc.yaml: {error}", "edit deps and outs in dvc.yaml, then: pretune plan") from error
    except YAMLValidationError as error:
        problems = [f"{'.'.join(map(str, problem.path))}: {problem.msg}" for problem in error.exc.errors]
        raise GraphError(
            [f"dvc.yaml: {problem}" for problem in problems], "edit dvc.yaml, then: pretune plan"
        ) from error
    except (DvcException, NetworkXError, YAMLError, ObjectFormatError) as error:
        cause = error.__cause__ or error
        raise GraphError(f"dvc: {str(error) or cause}".strip(), "dvc status   (shows DVC's own report)") from error
    except (AttributeError, TypeError, LookupError, ValueError, RecursionError) as error:  # a list for an object, say
        raise GraphError(
            f"dvc.yaml or dvc.lock is damaged ({type(error).__name__}: {error})",
            "git diff dvc.yaml dvc.lock   (shows what changed)",
        ) from error


@contextmanager
def remote_errors() -> Iterator[None]:
    """Turn what DVC's remotes raise into ours: each kind of remote has its own exceptions."""
    from dvc.config import RemoteConfigError
    from dvc.exceptions import DvcException

    try:
        yield
    except PermissionError as error:
        problem = f"the DVC remote refuses its keys: {error}"
        raise RefusedError(problem, "dvc remote modify --local NAME access_key_id …, and secret_access_key") from error
    except RemoteConfigError as error:  # no remote, or a package that is missing
        raise WorkspaceError(str(error), "dvc remote add --default NAME ADDRESS") from error
    except DvcException:
        raise
    except Exception as error:
        lines = str(error).splitlines() or [type(error).__name__]
        problem = f"the DVC remote does not answer: {lines[0]}"
        raise WorkspaceError(problem, "dvc remote list   (shows its address)") from error
