"""Decides which stage starts next: the one with the longest remaining path, once its cores and GPUs are free.

On two cores, two stages of two threads each take longer in parallel than one after the other.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

from pretune.config.params import Params
from pretune.lineage.graph import Node
from pretune.runtime import launcher

UNKNOWN = 60.0  # seconds that a stage which never ran here is assumed to take
CGROUPS, OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
DEVICES = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Resources:
    """How many cores and GPUs a stage needs."""

    cores: int
    gpus: int = 0


class Schedule:
    """List scheduling by critical path: which of the stages whose upstream has ended may start now.

    nodes: upstream first. needs: called when a stage could start. seconds: an estimate for each stage. gpus: names.
    """

    def __init__(
        self, nodes: Mapping[str, Node], needs: Callable[[str], Resources], seconds: Mapping[str, float],
        cores: int, gpus: list[str],
    ) -> None:  # fmt: skip
        remaining = remaining_seconds(nodes, seconds)
        self._needs, self._cores, self._gpus = needs, cores, gpus
        self._total = Resources(cores, len(gpus))
        self._upstream = {
            name: set(nodes[name].upstream) & nodes.keys() for name in sorted(nodes, key=lambda n: -remaining[n])
        }
        self._used: dict[str, tuple[int, list[str]]] = {}

    def begin(self) -> str | None:
        """The next stage that may start, if there is one. Resources that a stage before it waits for stay reserved.

        A stage that needs more than the machine has starts when all of it is free.
        """
        cores, gpus = self._cores, len(self._gpus)
        for name in [name for name, upstream in self._upstream.items() if not upstream]:
            needs = self._needs(name)
            needs = Resources(min(needs.cores, self._total.cores), min(needs.gpus, self._total.gpus))
            if needs.cores <= cores and needs.gpus <= gpus:
                del self._upstream[name]
                self._used[name] = needs.cores, self._gpus[: needs.gpus]
                self._cores, self._gpus = self._cores - needs.cores, self._gpus[needs.gpus :]
                return name
            cores, gpus = max(0, cores - needs.cores), max(0, gpus - needs.gpus)
        return None

    def gpus(self, name: str) -> list[str]:
        """The names of the GPUs that a running stage may use."""
        return self._used[name][1]

    def end(self, name: str) -> None:
        """Release the resources of a stage that has ended or failed."""
        cores, gpus = self._used.pop(name)
        self._cores, self._gpus = self._cores + cores, self._gpus + gpus
        for upstream in self._upstream.values():
            upstream.discard(name)


class _Future(Protocol):
    def add_done_callback(self, fn: Callable[[Any], None], /) -> None: ...


Future = TypeVar("Future", bound=_Future)


def submit_all(
    nodes: Mapping[str, Node], schedule: Schedule, submit: Callable[[str, list[Future]], Future]
) -> dict[str, Future]:
    """Submit each stage when it may start, with the futures of its upstream. Returns when all have ended."""
    futures: dict[str, Future] = {}
    ended: SimpleQueue[str] = SimpleQueue()
    for _ in nodes:
        while name := schedule.begin():
            futures[name] = submit(name, [futures[up] for up in nodes[name].upstream if up in futures])
            futures[name].add_done_callback(lambda _, name=name: ended.put(name))  # type: ignore[misc]
        schedule.end(ended.get())
    return futures


def remaining_seconds(nodes: Mapping[str, Node], seconds: Mapping[str, float]) -> dict[str, float]:
    """Seconds from the start of each stage to the end of the last stage that depends on it: its critical path."""
    remaining = dict.fromkeys(nodes, 0.0)
    for name in reversed(list(nodes)):
        remaining[name] += seconds[name]
        for up in nodes[name].upstream:
            remaining[up] = max(remaining.get(up, 0.0), remaining[name])
    return remaining


def needs(node: Node, params: Params, gpus: list[str]) -> Resources:
    """What a stage needs: `threads` cores for each process that trains, or a GPU and a core to feed it."""
    trains = launcher.trains(node, params)
    processes = params.launch.processes if trains else 1
    if trains and gpus:
        return Resources(processes, processes)
    return Resources(processes * (params.threads if "threads" in node.params else 1))


def cores() -> int:
    """The number of processors that this process may use, by its affinity and the quota of its cgroup."""
    allowed = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, int(min([allowed, *_quotas()])))


def _quotas() -> Iterator[float]:
    """The quotas of the cgroups (version 2) that contain this process, in processors."""
    lines = OWN_CGROUP.read_text(encoding="utf-8").splitlines() if OWN_CGROUP.is_file() else []
    own = CGROUPS / next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    for file in [folder / "cpu.max" for folder in (own, *own.parents)]:
        quota, period = file.read_text(encoding="utf-8").split() if file.is_file() else ("max", "1")
        if quota != "max":
            yield int(quota) / int(period)


def gpus() -> list[str]:
    """The names of the GPUs for CUDA_VISIBLE_DEVICES."""
    if (visible := os.environ.get(DEVICES)) is not None:
        return [name for name in map(str.strip, visible.split(",")) if name not in {"", "-1"}]
    return sorted(path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*"))


def last_seconds(state: Path, stage: str) -> float | None:
    """The seconds that the last run of a stage here took; None if it never ran."""
    path = state / "stages" / f"{stage}.json"
    return float(json.loads(path.read_text(encoding="utf-8"))["seconds"]) if path.is_file() else None
