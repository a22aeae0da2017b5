"""Which stage begins next: the one with the longest way to the end, as soon as the cores and GPUs it asks for are free.

Two stages of two threads each take longer side by side on two cores than one after the other.
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

UNKNOWN = 60.0  # seconds of a stage that has never run here
CGROUPS, OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
DEVICES = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Ask:
    """How many processors and GPUs a stage asks for."""

    cores: int
    gpus: int = 0


class Schedule:
    """List scheduling by critical path: of the stages whose upstream has ended, which may begin now.

    `nodes` are upstream first, `asks` is called when a stage could begin, `seconds` is what each may take.
    """

    def __init__(
        self, nodes: Mapping[str, Node], asks: Callable[[str], Ask], seconds: Mapping[str, float],
        cores: int, gpus: list[str],
    ) -> None:  # fmt: skip
        way = ways(nodes, seconds)
        self._asks, self._cores, self._gpus = asks, cores, gpus
        self._all = Ask(cores, len(gpus))
        self._upstream = {
            name: set(nodes[name].upstream) & nodes.keys() for name in sorted(nodes, key=lambda n: -way[n])
        }
        self._held: dict[str, tuple[int, list[str]]] = {}

    def begin(self) -> str | None:
        """The next stage, if one may begin. What one with a longer way still lacks is kept free for it.

        One that asks for more than there is begins when all of it is free.
        """
        cores, gpus = self._cores, len(self._gpus)
        for name in [name for name, upstream in self._upstream.items() if not upstream]:
            asked = self._asks(name)
            asked = Ask(min(asked.cores, self._all.cores), min(asked.gpus, self._all.gpus))
            if asked.cores <= cores and asked.gpus <= gpus:
                del self._upstream[name]
                self._held[name] = asked.cores, self._gpus[: asked.gpus]
                self._cores, self._gpus = self._cores - asked.cores, self._gpus[asked.gpus :]
                return name
            cores, gpus = max(0, cores - asked.cores), max(0, gpus - asked.gpus)
        return None

    def gpus(self, name: str) -> list[str]:
        """The GPUs that a stage which has begun may use."""
        return self._held[name][1]

    def end(self, name: str) -> None:
        """A stage has ended, however it went."""
        cores, gpus = self._held.pop(name)
        self._cores, self._gpus = self._cores + cores, self._gpus + gpus
        for upstream in self._upstream.values():
            upstream.discard(name)


class _Future(Protocol):
    def add_done_callback(self, fn: Callable[[Any], None], /) -> None: ...


Future = TypeVar("Future", bound=_Future)


def submit_all(
    nodes: Mapping[str, Node], schedule: Schedule, submit: Callable[[str, list[Future]], Future]
) -> dict[str, Future]:
    """Submit each stage when it may begin, with the futures of its upstream; return when all have ended."""
    futures: dict[str, Future] = {}
    ended: SimpleQueue[str] = SimpleQueue()
    for _ in nodes:
        while name := schedule.begin():
            futures[name] = submit(name, [futures[up] for up in nodes[name].upstream if up in futures])
            futures[name].add_done_callback(lambda _, name=name: ended.put(name))  # type: ignore[misc]
        schedule.end(ended.get())
    return futures


def ways(nodes: Mapping[str, Node], seconds: Mapping[str, float]) -> dict[str, float]:
    """Seconds from the start of each stage to the end of the last one that waits for it."""
    found = dict.fromkeys(nodes, 0.0)
    for name in reversed(list(nodes)):
        found[name] += seconds[name]
        for up in nodes[name].upstream:
            found[up] = max(found.get(up, 0.0), found[name])
    return found


def asks(node: Node, params: Params, gpus: list[str]) -> Ask:
    """What a stage asks for: `threads` for each process that trains, or a GPU and the core that feeds it."""
    trains = launcher.trains(node, params)
    processes = params.launch.processes if trains else 1
    if trains and gpus:
        return Ask(processes, processes)
    return Ask(processes * (params.threads if "threads" in node.params else 1))


def cores() -> int:
    """Processors that this process may use: by affinity, and by the quota of its cgroup."""
    allowed = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, int(min([allowed, *_quotas()])))


def _quotas() -> Iterator[float]:
    """Processors by the quota of each cgroup (version 2) above this process; none where there is no quota."""
    lines = OWN_CGROUP.read_text(encoding="utf-8").splitlines() if OWN_CGROUP.is_file() else []
    own = CGROUPS / next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    for file in [folder / "cpu.max" for folder in (own, *own.parents)]:
        quota, period = file.read_text(encoding="utf-8").split() if file.is_file() else ("max", "1")
        if quota != "max":
            yield int(quota) / int(period)


def gpus() -> list[str]:
    """The names by which CUDA is told which GPUs to use."""
    if (visible := os.environ.get(DEVICES)) is not None:
        return [name for each in visible.split(",") if (name := each.strip()) not in {"", "-1"}]
    return sorted(path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*"))


def last_seconds(state: Path, stage: str) -> float | None:
    """How long a stage took when it last ran here."""
    path = state / "stages" / f"{stage}.json"
    return float(json.loads(path.read_text(encoding="utf-8"))["seconds"]) if path.is_file() else None
