"""Checkpoints that are whole or not there: staged, hashed, synced, renamed, and written beside the training.

One folder per step, `step-00000100/`: tensors in safetensors, sharded by the process that held them
(torch.distributed.checkpoint), and `manifest.json` with the facts and the sha256 of each file.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter

from pretune.training.parallel import World

EVERY = 60.0  # seconds
COST = 0.01  # share of the time that may go into writing: slow disks get fewer checkpoints
KEEP = 2
MANIFEST = "manifest.json"


class DamagedError(Exception):
    """A checkpoint that is not what was written."""


class Checkpoints:
    """The checkpoints of one training run in `folder`."""

    def __init__(self, folder: Path, world: World, *, every: float = EVERY) -> None:
        self.folder, self._world, self._every = folder, world, every
        self._next = time.monotonic() + every
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None
        if world.rank == 0:
            folder.mkdir(parents=True, exist_ok=True)
            for left in folder.glob("*.partial"):
                shutil.rmtree(left)

    def due(self) -> bool:
        """Whether it is time to save; the same answer in all processes."""
        busy = self._writing is not None and not self._writing.done()
        return bool(self._world.first_says(time.monotonic() >= self._next and not busy))

    def save(self, step: int, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Keep the state as it is now. One process copies it and writes in the background; several write at once."""
        began = time.monotonic()
        self.wait()
        if self._world.size > 1:
            self._write(step, tensors, facts)
            self._next = time.monotonic() + max(self._every, (time.monotonic() - began) / COST)
            return
        copies = {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
        self._next = float("inf")
        self._writing = self._writer.submit(self._write_aside, step, copies, facts, began)

    def wait(self) -> None:
        """Until what is being written is written."""
        if self._writing:
            self._writing.result()
            self._writing = None

    def load(self, tensors: dict[str, Tensor]) -> dict[str, Any] | None:
        """Fill `tensors` from the newest checkpoint that is whole and return its facts; None where there is none."""
        step = self._world.first_says(self._newest() if self._world.rank == 0 else -1)
        if step < 0:
            return None
        folder = self._path(step)
        with _quiet():
            dcp.load(tensors, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=self._world.size == 1)
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return dict(manifest["facts"])

    def close(self) -> None:
        """Wait, and end the thread that writes."""
        self.wait()
        self._writer.shutdown()

    def remove(self) -> None:
        """The run has succeeded: nothing is left to resume."""
        self.close()
        if self._world.rank == 0:
            shutil.rmtree(self.folder)

    def _newest(self) -> int:
        for step in sorted(_steps(self.folder), reverse=True):
            try:
                verify(self._path(step))
            except DamagedError as error:
                print(
                    f"warning: checkpoint of step {step} is damaged ({error}); trying the one before", file=sys.stderr
                )
            else:
                return step
        return -1

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def _write_aside(self, step: int, tensors: dict[str, Tensor], facts: dict[str, Any], began: float) -> None:
        self._write(step, tensors, facts)
        self._next = time.monotonic() + max(self._every, (time.monotonic() - began) / COST)

    def _write(self, step: int, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        staging = self._path(step).with_suffix(".partial")
        try:
            writer = HuggingFaceStorageWriter(str(staging), save_distributed=True)
            with _quiet():
                dcp.save(tensors, storage_writer=writer, no_dist=self._world.size == 1)
            if self._world.rank == 0:
                publish(staging, self._path(step), facts)
                for old in sorted(_steps(self.folder))[:-KEEP]:
                    trash = self._path(old).with_suffix(".partial")
                    os.rename(self._path(old), trash)
                    shutil.rmtree(trash)
        except (OSError, dcp.CheckpointException) as error:
            if self._world.rank == 0:
                shutil.rmtree(staging, ignore_errors=True)
                print(f"warning: no checkpoint at step {step}: {_reason(error)}; training goes on", file=sys.stderr)


def publish(staging: Path, target: Path, facts: dict[str, Any]) -> None:
    """Hash what `staging` holds, make it durable, and give it its name."""
    files = {path.name: _sha256(path) for path in sorted(staging.iterdir())}
    with (staging / MANIFEST).open("w", encoding="utf-8") as file:
        json.dump({"files": files, "facts": facts}, file)
        file.flush()
        os.fsync(file.fileno())
    _sync(staging)
    if target.exists():  # damaged, or it would have been resumed from
        shutil.rmtree(target)
    os.rename(staging, target)
    _sync(target.parent)


def verify(folder: Path) -> None:
    """Raise DamagedError unless every byte is as it was written."""
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        found = {path.name: _sha256(path) for path in folder.iterdir() if path.name != MANIFEST}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{MANIFEST}: {error}") from None
    for name in sorted(files.keys() | found.keys()):
        if files.get(name) != found.get(name):
            raise DamagedError(f"{name} is not what was written")


def _steps(folder: Path) -> list[int]:
    return [int(path.name[5:]) for path in folder.glob("step-*") if path.name[5:].isdigit()]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _reason(error: BaseException) -> str:
    """The operating system's words where DCP wraps them."""
    failures = getattr(error, "failures", {})
    for failure in failures.values():
        return str(failure[0] if isinstance(failure, tuple) else failure)
    return str(error)


class _quiet(warnings.catch_warnings):  # noqa: N801 - it reads as what it does
    """DCP warns that it runs in one process, which is meant."""

    def __enter__(self) -> Any:
        entered = super().__enter__()
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        return entered
