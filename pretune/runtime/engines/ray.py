"""The engine `ray`: the stage runs on nodes of the cluster that PRETUNE_CLUSTER names, which this process follows.

Ray reserves a place on each of `launch.nodes` nodes and runs an agent there. When a node is lost, it finds another, and
training goes on from its checkpoint. `python -m pretune.runtime.engines.ray MACHINE ATTEMPT ADDRESS` is the agent.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Collection
from typing import Any

from pretune.cluster import connection, nodes
from pretune.errors import StageFailedError, WorkspaceError
from pretune.process import die_with_parent
from pretune.runtime.engines import agent
from pretune.runtime.engines.job import Lease, Task
from pretune.runtime.worker import WORKER

LOSSES = 3  # attempts in a row that end as a machine is lost, and have got no further than those before
WAIT = 30.0  # seconds from the end of the first agent, after which a machine that does not answer is given up
NEXT = "ray status   (shows the nodes), then: pretune run   (continues from the last checkpoint)"


def check() -> None:
    """Raise WorkspaceError where no cluster is named."""
    if not os.environ.get(connection.CLUSTER):
        raise WorkspaceError(
            f"launch.engine is ray, and {connection.CLUSTER} names no cluster",
            f"export {connection.CLUSTER}=auto   (or HOST:PORT; or write launch.engine: local)",
        )


class RayJob:
    """Agents on nodes of a cluster, in a placement group."""

    def __init__(self, task: Task) -> None:
        self._ray, self._task, self._lease = connection.connect(), task, Lease(task.folder)
        self._ray.cloudpickle.register_pickle_by_value(nodes)
        self._bundle = self._wanted()
        self._attempt, self._losses, self._furthest = 0, 0, -1
        self._group: Any = None
        self._agents: list[Any] = []  # what Ray will answer with their exit codes
        self._places: list[str] = []  # the ids of their nodes
        self._reserve()

    def wait(self, seconds: float) -> int | None:
        """As Job says."""
        self._lease.renew()
        if not self._agents:
            return self._wait_for_places(seconds)
        ended, others = self._ray.wait(self._agents, num_returns=len(self._agents), timeout=seconds)
        lost = [why for each in ended if (why := self._loss(each))]
        lost += [why for each, why in self._gone().items() if each in others]
        if not ended:
            self._since = time.monotonic()
        if others and not lost and time.monotonic() - self._since < WAIT:
            return None
        return self._end(lost[0] if lost else "its agent does not answer")

    def stop(self, pids: Collection[int]) -> None:  # noqa: ARG002 - they are on other machines
        """Have the agents stop."""
        self._lease.stop()

    def kill(self) -> None:
        """Give the places back: Ray ends what runs there, and the kernel what that has started."""
        if self._group:
            self._ray.util.remove_placement_group(self._group)
            if reachable := [each for each in self._agents if each not in self._gone()]:
                self._ray.wait(reachable, num_returns=len(reachable), timeout=WAIT)
        self._group, self._agents, self._places = None, [], []

    def _gone(self) -> dict[Any, str]:
        """{agent: why} of the nodes that Ray knows to be lost. It goes on waiting for what ran there, for minutes."""
        lost = {node["NodeID"]: f"{nodes.name_of(node)} is gone" for node in self._ray.nodes() if not node["Alive"]}
        return {each: lost[place] for each, place in zip(self._agents, self._places, strict=False) if place in lost}

    def _wanted(self) -> dict[str, int]:
        """What the processes need of each node. WorkspaceError if too few have it."""
        launch, found = self._task.launch, self._ray.nodes()
        wanted = {"CPU": launch.processes * self._task.threads}
        if any(nodes.fits(node, {"GPU": 1}) for node in found):
            wanted = {"GPU": launch.processes, "CPU": launch.processes}
        if (room := sum(nodes.fits(node, wanted) > 0 for node in found)) < launch.nodes:
            each = " and ".join(f"{count} {name}" for name, count in wanted.items())
            raise WorkspaceError(
                f"launch.nodes is {launch.nodes}, and the cluster has {room} nodes with {each}",
                "ray status   (shows the nodes); then start more of them, or lower launch.nodes, processes or threads",
            )
        return wanted

    def _reserve(self) -> None:
        """Have Ray reserve places on as many nodes, for another attempt."""
        (self._task.folder / str(self._attempt)).mkdir(exist_ok=True)
        bundles = [self._bundle] * self._task.launch.nodes
        self._group = self._ray.util.placement_group(bundles, strategy="STRICT_SPREAD")
        self._told, self._since = False, time.monotonic()

    def _wait_for_places(self, seconds: float) -> int | None:
        if self._lease.stopped:
            return agent.STOPPED
        if self._group.wait(seconds):
            self._begin()
        elif not self._told:
            self._told = True
            self._task.tell(f"{self._task.name} waits for {self._task.launch.nodes} nodes of the cluster")
        return None

    def _begin(self) -> None:
        """Start the agents, if the nodes have what is here."""
        task, ours = self._task, nodes.own_variables() | {WORKER: str(self._task.folder)}
        ids = self._ray.util.placement_group_table(self._group)["bundles_to_node_id"]
        self._places = [ids[machine] for machine in range(task.launch.nodes)]
        chosen = [node for node in self._ray.nodes() if node["NodeID"] in self._places and node["Alive"]]
        nodes.check(self._ray, chosen, task.root / "params.yaml", [task.folder], "pretune run")
        again = ", again, from the last checkpoint" if self._attempt else ""
        task.tell(f"Ray runs {task.name} on {', '.join(map(nodes.name_of, chosen))}{again}")
        self._agents = [self._run(machine, ours) for machine in range(task.launch.nodes)]

    def _run(self, machine: int, ours: dict[str, str]) -> Any:
        """Start an agent in its place; what Ray will answer with the exit code."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy as In

        gpus = self._bundle.get("GPU", 0)
        run = self._ray.remote(nodes.run).options(
            num_cpus=self._bundle["CPU"], num_gpus=gpus, max_retries=0,
            scheduling_strategy=In(self._group, placement_group_bundle_index=machine),
        )  # fmt: skip
        command = ["-m", "pretune.runtime.engines.ray", str(machine), str(self._attempt)]
        return run.remote(command, str(self._task.root), str(self._task.log), ours, gpus)

    def _loss(self, reference: Any) -> str:
        """Why an agent that has ended was lost; "" if it was not. StageFailedError if it does not run on its node."""
        try:
            code = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            raise StageFailedError(f"{self._task.name} does not run on a node: {error.cause}", NEXT) from None
        except self._ray.exceptions.RayError as error:
            return nodes.reason(error)
        if code > 0:
            raise StageFailedError(
                f"{self._task.name} does not run on a node: its agent failed",
                f"read {self._task.log}, then: pretune run",
            )
        return f"its agent was killed by signal {-code}" if code else ""

    def _end(self, why: str) -> int | None:
        """What becomes of an attempt that has ended: its exit code, or None if it goes on. why: a machine was lost."""
        self.kill()
        folder = self._task.folder / str(self._attempt)
        codes = agent.codes(folder)
        if self._lease.stopped:
            return agent.STOPPED
        if len(codes) == self._task.launch.nodes:
            if agent.AGAIN not in codes.values():
                return max(codes.values())
            why = "it was interrupted"
        self._count_losses(agent.reached(folder), why)
        self._task.tell(f"the cluster lost a machine of {self._task.name}: {why}")
        self._attempt += 1
        self._reserve()
        return None

    def _count_losses(self, step: int | None, why: str) -> None:
        """Raise StageFailedError after LOSSES attempts in a row that got no further. step: the last of this one."""
        further = (step or 0) > self._furthest
        self._furthest = max(self._furthest, step or 0)
        self._losses = 1 if further else self._losses + 1
        if self._losses >= LOSSES:
            raise StageFailedError(
                f"the cluster lost a machine of {self._task.name} {LOSSES} times, and got no further: {why}", NEXT
            )


def main(machine: str, attempt: str, address: str) -> int:
    """The agent of a node, which dies with Ray's process there."""
    die_with_parent()
    agent.run(int(machine), int(attempt), address)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
