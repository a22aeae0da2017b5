"""`python -m pretune.lineage.dvc ARGUMENTS…` is `dvc ARGUMENTS…`, in a process that dies with its parent."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from pretune.lineage.dvc_config import limit_retries, write_lock_atomically
from pretune.process import die_with_parent


def main(arguments: list[str], popen: Callable[..., Any] = subprocess.Popen) -> int:
    """Run a dvc command line in this process; `popen` starts the process of a stage."""
    from dvc import rwlock
    from dvc.cli import main as dvc
    from dvc.stage import run

    write_lock_atomically()
    limit_retries()
    rwlock.psutil = _Processes  # which processes hold locks
    run.subprocess = SimpleNamespace(Popen=popen, check_output=subprocess.check_output)
    return int(dvc(arguments) or 0)


class _Processes:
    """The part of psutil that dvc.rwlock uses. A zombie, which some containers never reap, counts as ended."""

    @staticmethod
    def pid_exists(pid: int) -> bool:
        """Whether a process is running."""
        import psutil

        try:
            return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False


if __name__ == "__main__":
    die_with_parent()
    sys.exit(main(sys.argv[1:]))
