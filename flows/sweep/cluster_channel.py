"""A slot on a node of a cluster, as the pool sees it: lines go in, lines come out, and losses are made good."""

from __future__ import annotations

import json
import shutil
import threading
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from flows import overrides
from flows.sweep import slot
from flows.sweep.pool import END, Share
from pretune.cluster.nodes import reason
from pretune.errors import StageFailedError
from pretune.lineage.graph import state_dir

RETRIES = 2  # times that a trial runs again because its node or process was lost
POLL = 1.0  # seconds between looks at whether there is still a place for a slot


class Nodes(Protocol):
    """The cluster, as its slots need it. ray: the module; next_step: of an error."""

    ray: Any
    next_step: str

    def actor(self, home: Path, root: Path, share: Share, log: Path) -> Any:
        """Start a slot on a node; the actor that relays its lines."""

    def make_room(self) -> None:
        """Have a slot with nothing to do give up its place."""


class ClusterChannel:
    """A slot on a node of a cluster: a pool.Channel. A lost one is started again elsewhere, with what it was doing."""

    def __init__(self, cluster: Nodes, home: Path, root: Path, share: Share, log: Path) -> None:
        self._cluster, self._ray = cluster, cluster.ray
        self._home, self._root, self._share, self._log = home, root, share, log
        self._changing = threading.RLock()  # a handler of a signal may write too
        self._request: slot.Key | None = None  # of what is being worked on
        self._sent: list[str] = []  # the lines for it
        self._stops: dict[slot.Key, str] = {}  # lines that came before their request
        self._before = 0  # lines that this actor got for earlier requests
        self._validated: set[tuple[str, int]] = set()
        self._lines: deque[str] = deque()
        self._stopped, self._losses, self._copies = "", 0, [root]
        log.parent.mkdir(parents=True, exist_ok=True)
        self._begin()

    def write(self, line: str) -> None:
        """Send a line."""
        message = json.loads(line)
        with self._changing:
            if "run" in message:
                self._request = (message["run"]["number"], message["run"]["seed"], message["run"]["split"])
                self._sent, self._stopped, self._losses = [line], "", 0
                self._validated.clear()
            else:
                self._stops[tuple(message["of"])] = line
            if self._request and (stop := self._stops.pop(self._request, "")):
                self._sent.append(stop)
                self._stopped = json.loads(stop)["stop"]
            if self._actor:
                self._actor.write.remote(self._before, self._sent)
            elif "run" in message:
                self._begin()

    def readline(self) -> str:
        """The next line; "" if the slot has ended by itself. StageFailedError if it was lost too often."""
        while True:
            while self._lines:
                line = self._lines.popleft()
                if self._is_new(line):
                    return line
            self._receive()

    def close(self) -> None:
        """Have the slot end, wait for that, and remove the copies that were made for lost ones."""
        with self._changing:
            if self._actor and self._node:
                with suppress(self._ray.exceptions.RayError):
                    self._ray.get(self._actor.close.remote(END), timeout=END + 10)
            self._kill()
        for copy in self._copies[1:]:
            shutil.rmtree(copy, ignore_errors=True)

    def end_if_idle(self) -> None:
        """End the slot if it has nothing to do; the next request starts it again."""
        with self._changing:
            if self._actor and not self._sent:
                self._kill()

    def _begin(self) -> None:
        self._actor = self._cluster.actor(self._home, self._copies[-1], self._share, self._log)
        self._node, self._reply, self._before = "", None, 0
        if self._sent:
            self._actor.write.remote(0, self._sent)

    def _kill(self) -> None:
        """End the slot at once: the kernel kills it with the process of its actor."""
        if self._actor:
            self._ray.kill(self._actor)
        self._actor = self._reply = None

    def _receive(self) -> None:
        """Wait for lines, for POLL seconds at most."""
        self._reply = self._reply or self._actor.lines.remote()
        if not self._ray.wait([self._reply], timeout=POLL)[0]:
            if not self._node:
                self._wait_for_room()
            return
        try:
            lines = self._ray.get(self._reply)
        except self._ray.exceptions.RayError as error:
            if self._stopped:
                self._give_up()
            else:
                self._move(reason(error))
            return
        self._reply = None
        if not self._node:
            self._node = lines.pop(0)
        self._lines += lines

    def _is_new(self, line: str) -> bool:
        """Note what a line says. False for a validation that a lost slot has reported already."""
        event: dict[str, Any] = json.loads(line) if line else {"event": "end"}
        if event["event"] == "done":
            with self._changing:
                self._before += len(self._sent)
                self._sent, self._request = [], None
        if event["event"] == "validation":
            key = (event["stage"], event["number"])
            known = key in self._validated
            self._validated.add(key)
            return not known
        return True

    def _wait_for_room(self) -> None:
        """The slot has not started: give up if the sweep is being stopped, else end others that have nothing to do."""
        if self._stopped:
            self._give_up()
        else:
            self._cluster.make_room()

    def _give_up(self) -> None:
        """Answer for a slot that is not there."""
        with self._changing:
            self._kill()
        code = StageFailedError.exit_code
        self._say("done", ended="stopped", code=code, problems=[self._stopped])

    def _say(self, event: str, **content: Any) -> None:
        self._lines.append(json.dumps({"event": event, **content}) + "\n")

    def _move(self, reason: str) -> None:
        """Start the slot again, in a fresh copy: a node that is only cut off may still write into the former one."""
        node, self._losses = self._node or "a node", self._losses + 1
        with self._changing:
            self._kill()
        if self._losses > RETRIES:
            raise StageFailedError(
                f"the cluster lost the process of a trial {self._losses} times; the last one on {node}: {reason}",
                f"ray status   (shows the nodes), then: {self._cluster.next_step}",
            )
        self._say(
            "warning", text=f"its process on {node} was lost ({reason}); it goes on from its checkpoint elsewhere"
        )
        copy = self._root.with_name(f"{self._root.name}-{len(self._copies)}")
        overrides.make_copy(self._home, copy, [])
        slot.prepare_state(copy, state_dir(self._home))
        with self._changing:
            self._copies.append(copy)
            if self._stopped:
                self._give_up()
            else:
                self._begin()
