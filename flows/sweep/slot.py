"""`python -m flows.sweep.slot HOME ROOT CORES GPUS`: runs trials, one after the other, in a copy of the workspace.

It reads requests as JSON lines from standard input, `{"run": …}` or `{"stop": reason, "of": …}`, and writes events
as JSON lines to standard output. It dies with the process that started it, and its stages die with it.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from typing_extensions import override

from flows.forkserver import ForkServer
from flows.processes import stage_environment
from flows.runner import PipelineRun, Trial, run_plain
from pretune import process
from pretune.config import overrides, params
from pretune.config.params import Params
from pretune.errors import PretuneError, StageFailedError
from pretune.lineage.graph import Workspace, stage_key
from pretune.release.last_model import LastModel
from pretune.runtime import stage as stage_folders
from pretune.runtime.progress import RunDisplay
from pretune.studies import outcomes

Key = tuple[int, int, str]  # number, seed, split


@dataclass(frozen=True)
class Request:
    """A run of a point. base: the params.yaml that the assignments change. split: rows to predict; "": none.

    predictions, costs: folders where results are kept, by stage key and by the hash of the model.
    """

    number: int
    seed: int
    assignments: list[str]
    stage: str
    parent: str
    name: str
    base: str
    split: str
    predictions: str
    costs: str
    shared: str
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        """What a message that stops it names: the same trial may run again for the test rows."""
        return self.number, self.seed, self.split


class Slot:
    """A copy of the workspace at `root` in which trials run."""

    def __init__(self, home: Path, root: Path, cores: int, gpus: list[str], channel: IO[str]) -> None:
        self.home, self.root, self.cores, self.gpus = home, root, cores, gpus
        self.state = root / ".pretune"
        self._channel, self._writing = channel, threading.Lock()
        self._run: PipelineRun | None = None
        self._stop, self._stops = "", dict[Key, str]()
        self._request: Key | None = None
        stages = list(Workspace(root).nodes)
        self._server = ForkServer(
            root, stage_environment(self.state, ""), stages, self.state / "logs" / "forkserver.log"
        )

    def close(self) -> None:
        """End the fork server."""
        self._server.close()

    def send(self, event: str, **content: Any) -> None:
        """Write an event."""
        with self._writing:
            self._channel.write(json.dumps({"event": event, **content}) + "\n")
            self._channel.flush()

    def stop(self, reason: str, key: Key) -> None:
        """Stop a run that goes on or is about to begin; callable from another thread."""
        self._stops[key] = reason
        if self._request != key:
            return
        self._stop = reason
        if self._run:
            self._run.stop()

    def perform(self, request: Request) -> dict[str, Any]:
        """Run a trial to its end. Returns its outcome: how it ended, its values, costs and curve."""
        self._request = request.key
        self._stop = self._stops.pop(self._request, "")
        overrides.override(Path(request.base), request.assignments, self.root / "params.yaml")
        settings = params.load(self.root / "params.yaml")
        sections = {stage: getattr(settings, stage) for stage in outcomes.TRAINED}
        every = {stage: section.evaluate_every for stage, section in sections.items() if section}
        trial = Trial(
            self.state, request.parent, request.name, request.tags, self._server, self.cores, self.gpus,
            Path(request.shared),
        )  # fmt: skip
        run = PipelineRun(self.root, [request.stage], EventDisplay(self, every), home=self.home, trial=trial)
        try:
            with run:
                self._run = run
                if self._stop:
                    raise StageFailedError(self._stop)
                self._run_stages(run)
                outcome = self._outcome(run, request, settings)
                measured = {name: value for name, value in outcome["values"].items() if name != "headline"}
                run.record.metrics({f"validation/{name}": value for name, value in measured.items()})
                run.record.metrics({f"cost/{name}": value for name, value in outcome["costs"].items()})
        except PretuneError as error:
            if self._stop:
                self._forget_checkpoint(run, request.stage)
            problems = [self._stop] if self._stop else error.problems
            return {"ended": "stopped" if self._stop else "failed", "code": error.exit_code, "problems": problems}
        finally:
            self._run = None
        return outcome

    def _run_stages(self, run: PipelineRun) -> None:
        try:
            run_plain(run)
        except PretuneError:
            if self._stop:
                run.record.tags({"pretune.trial_state": self._stop})
            raise

    def _outcome(self, run: PipelineRun, request: Request, settings: Params) -> dict[str, Any]:
        workspace = Workspace(self.root)
        hashes = {path: md5 for name in run.nodes for path, md5 in workspace.outputs(name).items()}
        result: dict[str, Any] = {"ended": "complete", "run": run.record.id, "held_out": "", "values": {}}
        result["executed"] = [name for name, outcome in run.outcomes.items() if outcome.how == "ran"]
        result["costs"] = outcomes.costs(self.root, self.state, Path(request.costs), hashes, list(run.nodes))
        names = [stage for stage in run.nodes if stage in {*outcomes.TRAINED, request.stage}]
        curves = {stage: outcomes.read_curve(self.root / f"reports/curves/{stage}.csv") for stage in names}
        section = settings.pretrain if request.stage == "pretrain" else LastModel(request.stage).params(settings)
        result["values"] |= outcomes.last_values(curves[request.stage], section.metric_for_best_model)
        result["curves"] = curves
        result["lock"] = (self.root / "dvc.lock").read_text(encoding="utf-8")
        if request.split:
            key = stage_key(
                workspace.entry(request.stage)
            )  # of data, params and code: all that predictions follow from
            file = Path(request.predictions) / f"{key}-{request.split}.json"
            if not file.is_file():
                self._predict(request.split, file)
            result["held_out"] = str(file)
            result["values"] |= outcomes.values_of(file)
        return result

    def _predict(self, split: str, file: Path) -> None:
        """Have a process with torch predict the rows of a split."""
        environment = stage_environment(self.state, "")
        arguments = ["pretune.studies.held_out", str(self.root), split, str(file)]
        with self._server.start(*arguments, environment=environment) as child:
            assert child.stdout
            output = child.stdout.read()
        if child.returncode:
            lines = output.strip().splitlines()[-5:] or [f"ended with {child.returncode}"]
            raise StageFailedError([f"predicting the {split} rows failed:", *lines])

    def _forget_checkpoint(self, run: PipelineRun, name: str) -> None:
        """Remove the checkpoint of a trial that is pruned: nobody will go on with it. An interrupted one keeps it."""
        if self._stop != outcomes.PRUNED:
            return
        with suppress(PretuneError):
            entry = Workspace(self.root).entry(name)
            stage_folders.forget(stage_folders.checkpoint_folder(run.state, entry))


class EventDisplay(RunDisplay):
    """Passes what a run shows to the sweep. every: steps between two validations, by stage."""

    def __init__(self, slot: Slot, every: Mapping[str, int]) -> None:
        self._slot, self._every = slot, every

    @override
    def start(self, stages: list[str]) -> None:
        pass

    @override
    def warn(self, text: str) -> None:
        self._slot.send("warning", text=text)

    @override
    def begin(self, stage: str) -> None:
        self._slot.send("stage", stage=stage)

    @override
    def progress(self, stage: str, done: int, total: int, note: str) -> None:
        self._slot.send("progress", stage=stage, done=done, total=total, note=note)

    @override
    def validated(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        number = -(-step // max(1, self._every.get(stage, 1)))
        self._slot.send("validation", stage=stage, number=number, metrics=dict(metrics))

    @override
    def finish(self, stage: str, outcome: str, seconds: float) -> None:
        self._slot.send("finished", stage=stage, outcome=outcome, seconds=seconds)

    @override
    def close(self) -> None:
        pass


def main(arguments: list[str]) -> int:
    """Perform requests until standard input ends."""
    process.die_with_parent()
    home, root, cores, gpus = Path(arguments[0]), Path(arguments[1]), int(arguments[2]), arguments[3]
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print goes to the log
    os.chdir(root)
    os.environ |= {stage_folders.TRIAL: "1", "PRETUNE_HOME": str(home)}
    os.environ.pop("PRETUNE_STATE", None)
    slot = Slot(home, root, cores, [name for name in gpus.split(",") if name], channel)
    requests: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(slot, requests), daemon=True).start()
    slot.send("ready")
    while request := requests.get():
        slot.send("done", **slot.perform(request))
    slot.close()
    return 0


def _listen(slot: Slot, requests: queue.SimpleQueue[Request | None]) -> None:
    for line in sys.stdin:
        message = json.loads(line)
        if "stop" in message:
            slot.stop(message["stop"], tuple(message["of"]))
        else:
            requests.put(Request(**message["run"]))
    requests.put(None)


def encode(request: Request) -> str:
    """The line that asks a slot to perform a request."""
    return json.dumps({"run": asdict(request)}) + "\n"


def prepare_state(root: Path, state: Path) -> None:
    """Make the state folder of the copy at `root`; records and checkpoints are in `state`, the workspace's own."""
    own = root / ".pretune"
    own.mkdir(parents=True, exist_ok=True)
    for name in ("journal", "checkpoints"):
        (state / name).mkdir(parents=True, exist_ok=True)
        if not (own / name).is_symlink():
            (own / name).symlink_to(state / name)


if __name__ == "__main__":
    process.leave(main(sys.argv[1:]))
