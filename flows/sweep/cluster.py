"""Trials on the Ray cluster that PRETUNE_CLUSTER names: each slot is a process on one of its nodes.

The slots work in copies of the workspace, which lie in its state folder: all nodes need to see it at the same path.
The trial of a node that is lost runs again on another, from its checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows import schedule
from flows.sweep import relay
from flows.sweep.cluster_channel import ClusterChannel
from flows.sweep.pool import Share
from pretune.cluster import connection, nodes
from pretune.config.params import Params
from pretune.errors import WorkspaceError
from pretune.lineage.dvc_config import cache_dir
from pretune.lineage.graph import Node


@dataclass(frozen=True)
class Place:
    """What a slot needs of a node. memory: bytes; 0 if that is not known."""

    cores: int
    gpus: int
    memory: int = 0

    def fits(self, node: dict[str, Any]) -> int:
        """How many slots a node, as `ray.nodes()` describes it, has room for."""
        return nodes.fits(node, {"CPU": self.cores, "GPU": self.gpus, "memory": self.memory})


class Cluster:
    """The nodes of a cluster, for the sweep whose folder is `folder`. ray: the module, connected."""

    def __init__(self, ray: Any, home: Path, folder: Path) -> None:
        self.ray, self.next_step = ray, f"pretune sweep resume {folder.name}"
        self._home, self._folder, self._place = home, folder, Place(1, 0)
        self._channels: list[ClusterChannel] = []
        for module in (nodes, relay):
            ray.cloudpickle.register_pickle_by_value(module)

    @classmethod
    def connect(cls, home: Path, folder: Path) -> Cluster | None:
        """The cluster that PRETUNE_CLUSTER names; None if it names none. WorkspaceError if it does not answer."""
        ray = connection.connect()
        return cls(ray, home, folder) if ray else None

    def shares(self, stage: Node, params: Params, parallel: int | None, memory_gb: float | None = None) -> list[Share]:
        """One share for each trial that runs at once: as many as the nodes have room for, `parallel` at most.

        memory_gb: what one trial is known to take. WorkspaceError, with all that is wrong on all nodes, if some of
        those that have room lack the workspace or have other versions, or if there are none.
        """
        if params.launch.engine == "ray":
            raise WorkspaceError(
                "launch.engine is ray: a trial of a sweep on the cluster is trained on one node of it",
                "write launch.engine: local in params.yaml, and start the sweep anew",
            )
        found = self.ray.nodes()
        names = ["0"] if any(node["Resources"].get("GPU", 0) >= 1 for node in found if node["Alive"]) else []
        self._place = _place(found, schedule.needs(stage, params, names), memory_gb)
        rooms = {node["NodeID"]: self._place.fits(node) for node in found}
        if not any(rooms.values()):
            gpus = f" and {self._place.gpus} GPUs" if self._place.gpus else ""
            raise WorkspaceError(
                f"no node of the cluster has {self._place.cores} cores{gpus} for a trial",
                f"ray status   (shows the nodes), then: {self.next_step}",
            )
        with_room = [node for node in found if rooms[node["NodeID"]]]
        folders = [self._folder, cache_dir(self._home)]
        nodes.check(self.ray, with_room, self._home / "params.yaml", folders, self.next_step)
        count = min(parallel or sum(rooms.values()), sum(rooms.values()))
        return [Share(self._place.cores, [str(number) for number in range(self._place.gpus)])] * count

    def start(self, home: Path, root: Path, share: Share, log: Path) -> ClusterChannel:
        """A slot on a node that has room, or as soon as one has."""
        channel = ClusterChannel(self, home, root, share, log)
        self._channels.append(channel)
        return channel

    def actor(self, home: Path, root: Path, share: Share, log: Path) -> Any:
        """Have Ray start a slot. Returns the handle of its Relay."""
        ours = nodes.own_variables()
        ours.pop(connection.CLUSTER, None)  # all cores of the cluster are for trials: data stages would wait for one
        options = {"num_cpus": share.cores, "num_gpus": len(share.gpus), "memory": self._place.memory or None}
        relays = self.ray.remote(relay.Relay).options(**options, max_concurrency=4, scheduling_strategy="SPREAD")
        return relays.remote([str(home), str(root), str(share.cores)], len(share.gpus), str(log), ours)

    def make_room(self) -> None:
        """End the slots that have nothing to do, because one waits. WorkspaceError if no node could ever have room."""
        for channel in self._channels:
            channel.end_if_idle()
        if not any(self._place.fits(node) for node in self.ray.nodes()):
            raise WorkspaceError(
                "the cluster has lost all nodes that have room for a trial",
                f"ray status   (shows the nodes), then: {self.next_step}",
            )


def _place(found: list[dict[str, Any]], needs: schedule.Resources, memory_gb: float | None) -> Place:
    """What a trial takes of a node: what it needs, or the most that one has, except for GPUs."""
    has = [node["Resources"] for node in found if node["Alive"] and node["Resources"].get("GPU", 0) >= needs.gpus]
    cores = max([int(each.get("CPU", 0)) for each in has], default=0)
    memory = max([int(each.get("memory", 0)) for each in has], default=0)
    wanted = int(memory_gb * 1e9) if memory_gb and not needs.gpus else 0
    return Place(max(1, min(needs.cores, cores)), needs.gpus, min(wanted, memory))
