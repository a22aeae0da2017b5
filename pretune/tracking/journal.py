"""The journal of a run: a file of JSON lines, which a Sender sends to MLflow.

Writing never waits for a server. The writer holds a lock on the file, so a Sender recognises a journal whose writer
was killed. A journal that could not be sent stays and is sent later.
"""

from __future__ import annotations

import base64
import fcntl
import json
import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pretune.config.files import flatten, partial_of
from pretune.errors import DataError

NOTE = "mlflow.note.content"  # the tag of a run's description, in Markdown
ARTIFACT = "artifact:"  # prefix of a link in it to an artifact of the run, by name


def folder(state: Path) -> Path:
    """The folder of a workspace's journals; their names sort by time of creation."""
    return state / "journal"


def encode(value: Any) -> Any:
    """A value for JSON: bytes become {"base64": ...}, any other value stays."""
    return {"base64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def decode(value: Any) -> Any:
    """The value that `encode` was given."""
    return base64.b64decode(value["base64"]) if isinstance(value, dict) and value.keys() == {"base64"} else value


class EventLog:
    """A file of JSON lines, each an event with its content. Threads may share it."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")
        self._writing = threading.Lock()

    def lock(self) -> None:
        """Lock the file until this process ends: see is_being_written."""
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def write(self, event: str, **content: Any) -> None:
        """Append a line."""
        line = json.dumps({"event": event, **content})
        with self._writing:
            self._file.write(line + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Run:
    """The record of a pipeline run or a stage run while it is running. Threads may share it.

    latest: the last value of each metric. outputs: {path: md5}. continues: the id of a run that has ended, which
    goes on in this journal.
    """

    def __init__(
        self, state: Path, name: str, *, parent: str | None = None, tags: Mapping[str, str], continues: str = ""
    ) -> None:
        new = f"{time.time_ns()}-{uuid.uuid4().hex[:8]}"
        self.id = continues or new
        folder(state).mkdir(parents=True, exist_ok=True)
        self.path = folder(state) / f"{new}.jsonl"
        self.latest: dict[str, float] = {}
        self.outputs: dict[str, str] = {}
        partial = partial_of(self.path)  # a Sender must not see it before it is locked
        self._log = EventLog(partial)
        self._log.lock()
        self._write("start", name=name, parent=parent, tags={**tags, "pretune.id": self.id}, continues=continues)
        partial.rename(self.path)

    def params(self, values: Mapping[str, Any]) -> None:
        """Settings, by dotted name."""
        self._write("params", values={key: str(value) for key, value in values.items()})

    def tags(self, values: Mapping[str, str]) -> None:
        """Tags, which runs are searched by."""
        self._write("tags", values=dict(values))

    def metrics(self, values: Mapping[str, Any], step: int = 0) -> None:
        """Numbers. Nested ones get dotted names; the `value` of an estimate gets the name of the estimate."""
        flat = {key.removesuffix(".value"): float(value) for key, value in flatten(values).items()}
        self.latest |= flat
        self._write("metrics", values=flat, step=step)

    def input(self, path: str, md5: str) -> None:
        """An input, with DVC's hash."""
        self._write("input", path=path, md5=md5)

    def output(self, path: str, md5: str) -> None:
        """An output, with DVC's hash."""
        self.outputs[path] = md5
        self._write("tags", values={f"dvc.out.{path}": md5})

    def model(self, name: str, path: Path, md5: str, examples: list[dict[str, Any]], *, later: bool = False) -> None:
        """A model folder in the format of transformers, with example rows to predict.

        later: MLflow gets the model from the first run that restores it from DVC's cache, if there is one.
        """
        rows = [{key: encode(value) for key, value in row.items()} for row in examples]
        self._write("model", name=name, path=str(path), md5=md5, examples=rows, later=later)

    def text(self, name: str, content: str) -> None:
        """A text artifact."""
        self._write("text", name=name, content=content)

    def copy_of(self, stage_key: str, root: Path | None = None) -> None:
        """The stage did not run: copy metrics and models from the run that made the result, which lies in `root`."""
        self._write("copy", stage_key=stage_key, outputs=self.outputs, root=str(root) if root else "")

    def end(self, status: str) -> None:
        """End the run as FINISHED, FAILED or KILLED. Nothing may be written afterwards."""
        self._write("end", status=status)
        self._log.close()

    def _write(self, event: str, **content: Any) -> None:
        self._log.write(event, time=int(time.time() * 1000), **content)


def is_being_written(path: Path) -> bool:
    """Whether the process that writes the journal is running."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def read(path: Path, offset: int) -> tuple[list[dict[str, Any]], int]:
    """The events of the complete lines from byte `offset` on, and the offset of their end. DataError if damaged."""
    with path.open("rb") as file:
        file.seek(offset)
        content = file.read()
    end = content.rfind(b"\n") + 1
    try:
        return [json.loads(line) for line in content[:end].splitlines()], offset + end
    except ValueError:
        raise DataError(f"{path.name} is damaged: a line after byte {offset} is not JSON") from None
