"""Sends journals to MLflow in a process of its own.

`python -m pretune.tracking.sender ROOT STATE` is that process. It sends all journals, then ends; Sender starts it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pretune.config.files import remove_leftovers
from pretune.errors import machine_error
from pretune.process import lock
from pretune.tracking import journal
from pretune.tracking.client import first_line, tracking_uri
from pretune.tracking.journal import Run
from pretune.tracking.outbox import Outbox

CODE = Path(__file__).parents[2]  # the folder that holds the package pretune
CODE_OF_SENDER = Path(__file__).relative_to(CODE)
SEND_TIMEOUT = 60.0  # seconds that a run waits at its end for records that are still being sent


class Sender:
    """Starts a process that sends journals to MLflow, so that nothing else waits for a server.

    That process outlives this one until all is sent. Runs whose process was killed end as KILLED. One at a time
    sends for a workspace (`locks/sender.lock`).
    """

    def __init__(self, root: Path, state: Path) -> None:
        self.root, self.state = root, state

    def start(self) -> Sender:
        """Start to send the journals that there are, and those written later."""
        log = self.state / "logs" / "sender.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        # The process may outlive a temporary folder of `dvc exp`, whose code this may be.
        code = self.root if (self.root / CODE_OF_SENDER).is_file() else CODE
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(code), os.environ.get("PYTHONPATH", "")])}
        with log.open("w", encoding="utf-8") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "pretune.tracking.sender", str(self.root), str(self.state)],
                cwd=self.state, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                start_new_session=True,
            )  # fmt: skip
        return self

    def backlog(self) -> str:
        """A warning if the records of earlier runs could not be sent, without waiting for these, else ""."""
        error = _read(self.state / "logs" / "sender-error.txt")
        waiting = len(list(journal.folder(self.state).glob("*.jsonl")))
        return f"{waiting} runs are not in MLflow yet ({error}); pretune doctor says more" if error else ""

    def close(self, runs: Iterable[Run]) -> str:
        """Wait until the journals of `runs`, which have ended, are sent. Returns a warning if they are not, else ""."""
        paths = [run.path for run in runs]
        deadline = time.monotonic() + SEND_TIMEOUT
        while self._process.poll() is None and time.monotonic() < deadline and any(p.exists() for p in paths):
            time.sleep(0.05)
        unsent = sum(path.exists() for path in paths)
        refused = sorted(journal.folder(self.state).glob("*.refused"))
        folder, warnings = journal.folder(self.state), []
        if unsent:
            error = _read(self.state / "logs" / "sender-error.txt") or "it takes long"
            warnings.append(
                f"{unsent} runs are not in MLflow yet ({tracking_uri(self.root)}: {error}); "
                f"they are kept in {folder} and sent with the next run"
            )
        if refused:
            error = _read(refused[0].with_suffix(".refused.txt"))
            warnings.append(
                f"MLflow refuses {len(refused)} runs ({error}); "
                f"they are kept in {folder} and sent again with the next run"
            )
        return "; ".join(warnings)


def send_until_done(root: Path, state: Path) -> None:
    """Send all journals until none is left, or until none is being written and MLflow does not answer."""
    folder, note = journal.folder(state), state / "logs" / "sender-error.txt"
    failures = 0
    with lock(state / "locks" / "sender.lock", "a sender", wait=True), _scratch(state / "sender"):
        remove_leftovers(folder)
        for path in folder.glob("*.refused"):  # the reason may be gone
            path.rename(path.with_suffix(".jsonl"))
            path.with_suffix(".refused.txt").unlink(missing_ok=True)
        for path in folder.glob("*.sent"):  # of a journal that was removed last, before a kill
            if not path.with_suffix(".jsonl").exists():
                path.unlink()
        outbox = None
        while paths := sorted(folder.glob("*.jsonl")):
            being_written = any(journal.is_being_written(path) for path in paths)
            try:
                outbox = outbox or Outbox(root, state)
                outbox.send(paths)
            except Exception as error:  # of any kind: tracking never stops a run
                with suppress(OSError):  # as on a full disk
                    note.parent.mkdir(exist_ok=True)
                    note.write_text(first_line(error), encoding="utf-8")
                if not being_written:
                    raise
                outbox, failures = None, failures + 1
                time.sleep(min(60.0, 2.0**failures))
            else:
                note.unlink(missing_ok=True)
                failures = 0
                if being_written:
                    time.sleep(0.5)
        note.unlink(missing_ok=True)


@contextmanager
def _scratch(folder: Path) -> Iterator[None]:
    """Keep temporary files in `folder` until the end of the block, without those of a sender that was killed."""
    former = tempfile.tempdir
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tempfile.tempdir = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = former
        shutil.rmtree(folder, ignore_errors=True)


def main(root: Path, state: Path) -> int:
    """Send all journals; return an exit code."""
    try:
        send_until_done(root, state)
    except Exception as error:
        known = machine_error(error)
        if known is None:
            raise
        print(f"error: {known}", file=sys.stderr)
        return known.exit_code
    return 0


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
