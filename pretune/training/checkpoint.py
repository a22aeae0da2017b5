"""Atomic checkpoints: staged, hashed, synced, renamed, and written in the background of the training.

One folder per step, `step-00000100/`: tensors in safetensors, one shard for each process
(torch.distributed.checkpoint), the state besides tensors in `facts.json`, and the sha256 of these files in
`manifest.json`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter

# Below dcp.load and dcp.save, which warn in a single process; to silence them would silence all threads.
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict
from torch.distributed.checkpoint.state_dict_saver import _save_state_dict

from pretune.training.parallel import World

EVERY = 60.0  # seconds
COST = 0.01  # maximum share of the time for writing: slow disks get fewer checkpoints
KEEP = 2
FACTS, MANIFEST = "facts.json", "manifest.json"


class DamagedError(Exception):
    """A checkpoint that differs from what was written."""


class Checkpoints:
    """The checkpoints of one training run in `folder`, at least `every` seconds apart."""

    def __init__(self, folder: Path, world: World, *, every: float = EVERY) -> None:
        self.folder, self._world, self._every = folder, world, every
        self._next = time.monotonic() + every
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None
        if world.rank == 0:
            folder.mkdir(parents=True, exist_ok=True)
            for partial in folder.glob("*.partial"):
                shutil.rmtree(partial)

    def due(self) -> bool:
        """Whether it is time to save; processes may differ."""
        if self._writing and self._writing.done():
            self.wait()
        return time.monotonic() >= self._next and not self._writing

    def save(self, step: int, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Save the state at this moment: a single process copies it and writes in the background, several write now.

        facts: the state besides tensors, JSON.
        """
        began = time.monotonic()
        self.wait()
        if self._world.size > 1:
            self._write(step, tensors, facts, began)
        else:
            copies = {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
            self._writing = self._writer.submit(self._write, step, copies, facts, began)

    def wait(self) -> None:
        """Wait for the checkpoint that is being written; raises its errors, except those of the disk."""
        writing, self._writing = self._writing, None
        if writing:
            writing.result()

    def load(self, tensors: dict[str, Tensor]) -> dict[str, Any] | None:
        """Fill `tensors` from the newest intact checkpoint and return its facts; None if there is none."""
        step = self._world.broadcast(self._newest() if self._world.rank == 0 else -1)
        if step < 0:
            return None
        folder = self._path(step)
        _load_state_dict(tensors, HuggingFaceStorageReader(str(folder)), no_dist=self._world.size == 1)
        facts: dict[str, Any] = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        return facts

    def close(self) -> None:
        """Wait, and end the writer thread."""
        try:
            self.wait()
        finally:
            self._writer.shutdown()

    def _newest(self) -> int:
        steps = sorted(_steps(self.folder), reverse=True)
        for step in steps:
            try:
                verify(self._path(step))
            except DamagedError as error:
                print(f"warning: the checkpoint of step {step} is damaged and not used: {error}", file=sys.stderr)
            else:
                return step
        if steps:
            print("warning: no checkpoint is intact: training starts from the beginning", file=sys.stderr)
        return -1

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def _write(self, step: int, tensors: dict[str, Tensor], facts: dict[str, Any], began: float) -> None:
        staging = self._path(step).with_suffix(".partial")
        try:
            writer = HuggingFaceStorageWriter(str(staging), save_distributed=True)
            _save_state_dict(tensors, writer, no_dist=self._world.size == 1)
            if self._world.rank == 0:
                publish(staging, self._path(step), facts)
                self._rotate(step)
        except (OSError, CheckpointException) as error:
            causes = (
                [cause for cause, _ in error.failures.values()] if isinstance(error, CheckpointException) else [error]
            )
            if not all(isinstance(cause, OSError) for cause in causes):
                raise
            if self._world.rank == 0:
                shutil.rmtree(staging, ignore_errors=True)
                print(f"warning: no checkpoint at step {step}: {causes[0]}; training goes on", file=sys.stderr)
        finally:
            now = time.monotonic()
            self._next = now + max(self._every, (now - began) / COST)
        self._world.broadcast(0)  # no process leaves before the checkpoint has its name

    def _rotate(self, newest: int) -> None:
        """Keep the KEEP newest. Those after `newest` are damaged, or training would have resumed from them."""
        steps = _steps(self.folder)
        kept = sorted(step for step in steps if step <= newest)[-KEEP:]
        for step in set(steps) - set(kept):
            trash = self._path(step).with_suffix(".partial")
            os.rename(self._path(step), trash)
            shutil.rmtree(trash)


def publish(staging: Path, target: Path, facts: dict[str, Any]) -> None:
    """Add `facts` to `staging`, hash all its files, sync them, and rename the folder to `target`."""
    _write_json(staging / FACTS, facts)
    _write_json(staging / MANIFEST, {path.name: _sha256(path) for path in sorted(staging.iterdir())})
    _sync(staging)
    if target.exists():  # damaged, or training would have resumed from it
        shutil.rmtree(target)
    os.rename(staging, target)
    _sync(target.parent)


def verify(folder: Path) -> None:
    """Raise DamagedError unless every file has the hash in the manifest."""
    try:
        expected = dict(json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
        actual = {path.name: _sha256(path) for path in folder.iterdir() if path.name != MANIFEST}
    except (OSError, ValueError, TypeError) as error:
        raise DamagedError(f"{MANIFEST}: {error}") from None
    for name in sorted(expected.keys() | actual.keys()):
        if expected.get(name) != actual.get(name):
            raise DamagedError(f"{name} is not what was written")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with path.open("w", encoding="utf-8") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())


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
