"""A run's record as it is written: one file of JSON lines, sent on to MLflow by a Sender.

Writing never waits for a server. Whoever writes holds a lock on the file, so a Sender knows a
journal whose writer was killed; what could not be sent stays here and is sent later.
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

from pretune.config.files import flatten


def folder(state: Path) -> Path:
    """Where the journals of a workspace lie; their names sort by time of creation."""
    return state / "journal"


def _as_text(value: Any) -> Any:
    """A value as JSON can hold it: bytes become {"base64": ...}."""
    return {"base64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def from_text(value: Any) -> Any:
    """What a value of a model's example was."""
    return base64.b64decode(value["base64"]) if isinstance(value, dict) and value.keys() == {"base64"} else value


class EventLog:
    """A file of JSON lines, each an event with its content; several threads may write."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")
        self._writing = threading.Lock()

    def lock(self) -> None:
        """Hold a lock on the file for as long as this process lives: see is_being_written."""
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def write(self, event: str, **content: Any) -> None:
        """Append a line."""
        line = json.dumps({"event": event, **content})
        with self._writing:
            self._file.write(line + "\n")
            self._file.flush()

    def close(self) -> None:
        """Nothing more will be written."""
        self._file.close()


class Run:
    """The record of one pipeline run or one stage run, while it happens; several threads may write.

    latest: each metric as it was last told; outputs: {path: md5}.
    """

    def __init__(self, state: Path, name: str, *, parent: str | None = None, tags: Mapping[str, str]) -> None:
        self.id = f"{time.time_ns()}-{uuid.uuid4().hex[:8]}"
        folder(state).mkdir(parents=True, exist_ok=True)
        self.path = folder(state) / f"{self.id}.jsonl"
        self.latest: dict[str, float] = {}
        self.outputs: dict[str, str] = {}
        partial = self.path.with_suffix(".partial")  # locked and begun before a Sender can see it
        self._log = EventLog(partial)
        self._log.lock()
        self._write("start", name=name, parent=parent, tags={**tags, "pretune.id": self.id})
        partial.rename(self.path)

    def params(self, values: Mapping[str, Any]) -> None:
        """Settings, by dotted name."""
        self._write("params", values={key: str(value) for key, value in values.items()})

    def tags(self, values: Mapping[str, str]) -> None:
        """Facts to search by."""
        self._write("tags", values=dict(values))

    def metrics(self, values: Mapping[str, Any], step: int = 0) -> None:
        """Numbers; nested ones get dotted names, an estimate's `value` the name of the estimate."""
        flat = {key.removesuffix(".value"): float(value) for key, value in flatten(values).items()}
        self.latest |= flat
        self._write("metrics", values=flat, step=step)

    def input(self, path: str, md5: str) -> None:
        """A data set that is read, with DVC's hash."""
        self._write("input", path=path, md5=md5)

    def output(self, path: str, md5: str) -> None:
        """A path that was written, with DVC's hash."""
        self.outputs[path] = md5
        self._write("tags", values={f"dvc.out.{path}": md5})

    def model(self, name: str, path: Path, md5: str, examples: list[dict[str, Any]]) -> None:
        """A model folder in transformers' format, and rows that it can be asked."""
        rows = [{key: _as_text(value) for key, value in row.items()} for row in examples]
        self._write("model", name=name, path=str(path), md5=md5, examples=rows)

    def text(self, name: str, content: str) -> None:
        """A text to keep as an artifact."""
        self._write("text", name=name, content=content)

    def copy_of(self, stage_key: str) -> None:
        """Nothing ran: take metrics and models from the run that made the result."""
        self._write("copy", stage_key=stage_key, outputs=self.outputs)

    def end(self, status: str) -> None:
        """FINISHED, FAILED or KILLED; nothing may be written afterwards."""
        self._write("end", status=status)
        self._log.close()

    def _write(self, event: str, **content: Any) -> None:
        self._log.write(event, time=int(time.time() * 1000), **content)


def is_being_written(path: Path) -> bool:
    """Whether the process that writes the journal is alive."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def read(path: Path, offset: int) -> tuple[list[dict[str, Any]], int]:
    """The whole lines from byte `offset` on, and where they end."""
    with path.open("rb") as file:
        file.seek(offset)
        content = file.read()
    end = content.rfind(b"\n") + 1
    return [json.loads(line) for line in content[:end].splitlines()], offset + end
