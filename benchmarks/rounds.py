"""Contenders that take turns: each is a process of its own that pauses after every round.

Only one computes at a time, all meet the same disturbances, and each has its own peak of memory. The first round, which
warms up, does not count.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

ROOT = Path(__file__).parent.parent
OURS = "ours"


class Goal(NamedTuple):
    """The target: ours is `factor` times as fast as the fastest of `peers`."""

    peers: tuple[str, ...]
    factor: float


@dataclass
class Measured:
    """The measurements of one contender."""

    speeds: list[float] = field(default_factory=list)
    memory: float = 0.0  # MiB

    def add(self, result: dict[str, float]) -> None:
        """Add the result of a round."""
        self.speeds.append(result["amount"] / result["seconds"])
        self.memory = max(self.memory, result["memory"])

    @property
    def median(self) -> float:
        """The median speed."""
        return statistics.median(self.speeds)


def take_turns(workers: dict[str, Worker], rounds: int) -> dict[str, Measured]:
    """Run rounds of each worker in turn, one that does not count before."""
    measured = {contender: Measured() for contender in workers}
    for number in range(rounds + 1):
        for contender, worker in workers.items():
            result = worker.round()
            if number:
                measured[contender].add(result)
    return measured


def show_speed(measured: dict[str, Measured], goals: Iterable[Goal], unit: str = "tokens/s") -> None:
    """Print the table of a case, and whether its goals are met."""
    print(f"  {'':<26}{'median':>10}{'best':>10}   {unit}{'peak':>10} MiB")
    for name, results in measured.items():
        digits = 0 if results.median >= 100 else 2
        best = max(results.speeds)
        print(f"  {name:<26}{results.median:10,.{digits}f}{best:10,.{digits}f}{results.memory:21,.0f}")
    for goal in goals:
        fastest = max(goal.peers, key=lambda name: measured[name].median)
        quickest = max((name for name in measured if name.startswith(OURS)), key=lambda name: measured[name].median)
        verdict(f"{quickest} / {fastest}", measured[quickest].median / measured[fastest].median, goal.factor, "x")


def verdict(name: str, value: float, target: float, unit: str, *, at_most: bool = False) -> None:
    """Print whether a target is reached or missed."""
    reached = value <= target if at_most else value >= target
    sign = "<=" if at_most else ">="
    print(
        f"  {name}: {value:.2f}{unit}, target {sign} {target:g}{unit}: {'reached' if reached else 'MISSED'}", flush=True
    )


class Worker:
    """A contender's process, which computes only during `round`."""

    def __init__(self, script: str, contender: str, settings: dict[str, Any], folder: Path) -> None:
        self._contender, self._errors = contender, tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in __exit__
        environment = {
            **os.environ,
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        }
        self._process = subprocess.Popen(
            [sys.executable, script, "--worker", contender, json.dumps(settings), str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, env=environment, text=True, bufsize=1,
        )  # fmt: skip

    def round(self) -> dict[str, float]:
        """Run one round; return its result."""
        assert self._process.stdin
        assert self._process.stdout
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write("go\n")
        answer = self._process.stdout.readline()
        if not answer:
            self._errors.seek(0)
            sys.exit(f"{self._contender} ended with {self._process.wait()}:\n{self._errors.read()}")
        result: dict[str, float] = json.loads(answer)
        return result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()


class Rounds:
    """The worker's side: waits for a line before each round, and answers after it."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)  # libraries print to stdout as well
        self._wait()
        self._first = True

    def done(self, amount: float) -> None:
        """End a round of `amount` tokens or FLOPs."""
        seconds = time.perf_counter() - self._began
        self.answer(amount=amount, seconds=seconds, memory=peak())
        if self._first:
            self._first = False
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # reset the peak
        self._wait()

    def answer(self, **values: float) -> None:
        """Send values to the benchmark."""
        print(json.dumps(values), file=self._answers)

    def _wait(self) -> None:
        if not sys.stdin.readline():
            os._exit(0)
        self._began = time.perf_counter()


def peak() -> float:
    """Peak memory of this process in MiB."""
    with contextlib.suppress(OSError):
        match = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text(encoding="utf-8"))
        if match:
            return int(match[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
