"""Runs the stages of the graph as `dvc repro` processes, under one record, with Prefect or without."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from flows import naming, schedule
from flows.forkserver import ForkServer
from flows.processes import StageProcesses, reported_error
from flows.recording import PipelineRecording
from flows.schedule import Resources, Schedule
from flows.summary import Outcome
from pretune import process
from pretune.config import files, params
from pretune.errors import GraphError, PretuneError, StageFailedError, TerminatedError
from pretune.evaluation.benchmarks import tasks as benchmarks
from pretune.lineage import dvc_config, graph
from pretune.lineage.graph import Workspace
from pretune.objectives import compatibility
from pretune.runtime import launcher, progress
from pretune.runtime.engines import start as engines
from pretune.runtime.progress import RunDisplay
from tasks import __main__ as tasks

METRICS = "reports/metrics.json"


@dataclass(frozen=True)
class Trial:
    """What makes a pipeline run a trial of a sweep.

    state: the folder of its locks and logs; its records go where the sweep's go, by the sweep's sender. parent: the
    sweep's record. server: starts the stages of all trials in this copy of the workspace. cores, gpus: its share of
    the machine. shared: a folder with a lock for each stage key, so that two trials do not do the same work at once.
    """

    state: Path
    parent: str
    name: str
    tags: Mapping[str, str]
    server: ForkServer
    cores: int
    gpus: list[str]
    shared: Path


class PipelineRun:
    """One pipeline run: a lock, a record, and stages that can be run from any thread.

    root: where the stages run. home: the workspace that keeps the records; another folder if parameters are
    overridden. names: stages to bring up to date, with all that they depend on; [] for all. pull: first fetch from the
    DVC remote what others have computed.
    """

    def __init__(
        self, root: Path, names: list[str], display: RunDisplay, *, home: Path | None = None, prefect_run: str = "",
        trial: Trial | None = None, pull: bool = False,
    ) -> None:  # fmt: skip
        self._pull = pull
        self.root, self.home, self.display, self.prefect_run = root, home or root, display, prefect_run
        self.trial = trial
        self.state = trial.state if trial else graph.state_dir(self.home)
        self.outcomes: dict[str, Outcome] = {}
        self.warning = ""
        self._names = names
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Check all that can be checked before the first stage, then open the record."""
        try:
            self._open()
        except BaseException:
            self._stack.close()
            raise
        return self

    def _open(self) -> None:
        self._params = params.load(self.root / "params.yaml")
        self._stack.enter_context(process.lock(self.state / "locks" / "run.lock", "a pipeline run"))
        dvc_config.drop_torn_lock(self.root)
        if self._pull:
            Workspace(self.root).pull(self._names)
        workspace = self._workspace = Workspace(self.root)
        self.nodes = {name: workspace.nodes[name] for name in workspace.with_upstream(self._names)}
        workspace.check_inputs(self._names)
        self.plan = {decision.stage: decision for decision in workspace.plan(self._names)}
        self.schedule = self._make_schedule()
        stages = [name for name, decision in self.plan.items() if decision.action == "run" and not self._is_idle(name)]
        self._processes = StageProcesses(
            self.root, self.state, self.display, prefect_run=self.prefect_run, warm_stages=stages,
            server=self.trial.server if self.trial else None,
        )  # fmt: skip
        self._stack.callback(self._processes.close)
        if any(launcher.trains(self.nodes[name], self._params) for name in stages):
            engines.check(self._params.launch.engine)
        if compatibility.STAGES & set(stages):
            compatibility.before_work(self.root, self.state, self._params, self._processes.start)
        if "evaluate" in self.nodes:
            benchmarks.check(self._params.evaluate.benchmarks, self.root, self.nodes["evaluate"].deps)
        if "evaluate" in stages:
            benchmarks.fetch(self._params.evaluate.benchmarks, self._processes.start)
        for line in [] if self.trial else params.advice(self._params):  # a sweep tries what is rarely meant
            self.display.warn(line)
        if self._params.align and "align" not in self.nodes:
            self.display.warn("params.yaml has a section align, dvc.yaml no such stage: it is ignored (docs/stages.md)")
        if self._params.teacher and "finetune" in self.nodes and "teacher" not in self.nodes:
            raise GraphError(
                "params.yaml has a section teacher, dvc.yaml no such stage",
                "pretune init distil, or take the stage `teacher` from examples/graphs (docs/stages.md)",
            )
        flat = files.flatten(self._params.model_dump())
        self.name = self._choose_name(flat)
        self._recording = PipelineRecording(
            self.root, self.home, self.state, name=self.name, params=flat, prefect_run=self.prefect_run,
            trial=(self.trial.parent, self.trial.tags) if self.trial else None,
        )  # fmt: skip
        self.record = self._recording.run
        for line in [] if self.trial else self._recording.warnings:
            self.display.warn(line)
        self._stack.enter_context(process.stop_signals(self._handle_signal))
        self.display.start(list(self.nodes))

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """Stop what is running, and end the record as FINISHED, FAILED or KILLED."""
        with self._stack:
            self._processes.stop()
            self.display.close()
            self._workspace.order_lock()
            killed = isinstance(error, KeyboardInterrupt | TerminatedError)
            if error_type is None:
                self._recording.describe(self.results(), self.outcomes.values())
            elif isinstance(error, PretuneError):
                self._recording.describe_failure(error.problems)
            self.record.end("FINISHED" if error_type is None else "KILLED" if killed else "FAILED")
            # Nobody waits for the records of a run in which nothing ran: the sender may outlive this process.
            if error_type is not None or any(outcome.how != "skipped" for outcome in self.outcomes.values()):
                self.wait_until_sent()
            else:
                self.warning = self._recording.backlog()

    def stop(self) -> None:
        """Have the running stages stop, and start none afterwards; callable from another thread."""
        self._processes.stop_for_good()

    def wait_until_sent(self) -> str:
        """Wait until MLflow has all records of the run, or set `warning`. Returns the id of the run's record."""
        self.warning = self._recording.wait_until_sent()
        return self.record.id

    def stage(self, name: str) -> Outcome:
        """Bring one stage up to date, after its upstream stages. Raises StageFailedError."""
        start = time.monotonic()
        if self._is_up_to_date(name):
            return self._finish(name, "skipped", 0.0)
        if process.is_locked(self._lock_of(name)):  # first: DVC removes outputs before it runs a stage
            raise process.locked_error(self._lock_of(name), f"stage {name}")
        self.display.begin(name)
        try:
            if not (self._is_idle(name) and self._run_idle(name)):
                self._repro(name)
        except PretuneError:
            with suppress(PretuneError):  # DVC removed the former outputs: restore them
                Workspace(self.root, wait=True).checkout([name])
            self.display.finish(name, "failed", time.monotonic() - start)
            raise
        return self._finish(name, "ran" if self._executed(name) else "restored", time.monotonic() - start)

    def results(self) -> dict[str, Any]:
        """The content of reports/metrics.json if this run brought it up to date, else {}."""
        evaluated = any(METRICS in self.nodes[name].outs for name in self.outcomes)
        return dict(json.loads((self.root / METRICS).read_text(encoding="utf-8"))) if evaluated else {}

    def _make_schedule(self) -> Schedule:
        """The order in which stages start, from what they need and how long each took when it last ran."""
        gpus = self.trial.gpus if self.trial else schedule.gpus()
        cores = self.trial.cores if self.trial else schedule.cores()

        def needs(name: str) -> Resources:
            reached = all(up in self.outcomes for up in self.nodes[name].upstream)
            if not reached or self._is_up_to_date(name) or self._is_idle(name):
                return Resources(0)
            return schedule.needs(self.nodes[name], self._params, gpus)

        seconds = {
            name: schedule.last_seconds(self.state, name) or schedule.UNKNOWN if decision.action == "run" else 0.0
            for name, decision in self.plan.items()
        }
        return Schedule(self.nodes, needs, seconds, cores, gpus)

    def _choose_name(self, flat: dict[str, Any]) -> str:
        """The name of the run: what changed since the run before or, with --set, since params.yaml."""
        if self.trial:
            return self.trial.name
        if self.root != self.home:
            former = files.flatten(params.load(self.home / "params.yaml").model_dump())
        else:
            former = naming.last_params(self.state)
            naming.remember_params(self.state, flat)
        if not former:
            return naming.run_name(self._params, [])
        outs = {out for node in self.nodes.values() for out in node.outs}
        changes = naming.changed_params(former, flat) or naming.changed_inputs(self.plan.values(), outs)
        unchanged = all(decision.action == "skip" for decision in self.plan.values())
        return naming.run_name(self._params, changes or (["unchanged"] if unchanged else []))

    def _handle_signal(self, number: int) -> NoReturn:
        """On Ctrl-C and SIGTERM stop the stages, then let an exception end the run."""
        self._processes.stop_for_good()
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise TerminatedError("stopped by SIGTERM", "pretune run   (continues where it stopped)")

    def _lock_of(self, name: str) -> Path:
        return self.state / "locks" / f"{name}.lock"

    def _is_up_to_date(self, name: str) -> bool:
        """Whether there is nothing to do for a stage whose upstream stages have ended."""
        upstream = [self.outcomes[up] for up in self.nodes[name].upstream if up in self.outcomes]
        return self.plan[name].action == "skip" and all(outcome.how == "skipped" for outcome in upstream)

    def _is_idle(self, name: str) -> bool:
        """Whether a training stage has nothing to train: `label_efficiency` without shares, `scratch` switched off."""
        return name in compatibility.STAGES and not launcher.trains(self.nodes[name], self._params)

    def _run_idle(self, name: str) -> bool:
        """Run an idle stage in this process, which is faster than a new one. Returns False if DVC has to do it."""
        workspace, node = Workspace(self.root, wait=True), self.nodes[name]
        entry = workspace.entry(name)  # before params.yaml is read: publish compares it with the files again
        current = params.load(self.root / "params.yaml")
        action = Workspace(self.root, wait=True).plan([name])[-1].action
        if action == "restore" or launcher.trains(node, current):
            return False
        if action == "run":
            display = progress.StageProgress(self.display, name)
            runs = {"parent": self.record.id, "prefect_run": self.prefect_run}
            try:
                with process.lock(self._lock_of(name), f"stage {name}"):
                    tasks.perform(self.root, self.state, node, entry, params=current, progress=display, **runs)
                    workspace.commit(name)
            except PretuneError as error:
                raise reported_error(name, error.as_dict()) from error
        return True

    def _repro(self, name: str) -> None:
        with self._turn(name):
            self._repro_now(name)

    @contextmanager
    def _turn(self, name: str) -> Iterator[None]:
        """Wait while another trial of the sweep does the same work; DVC then restores its result."""
        if self.trial is None:
            yield
            return
        key = graph.stage_key(Workspace(self.root, wait=True).entry(name))
        with process.lock(self.trial.shared / f"{key}.lock", f"stage {name}", wait=True):
            yield

    def _repro_now(self, name: str) -> None:
        gpus = self.schedule.gpus(name)
        devices = {schedule.DEVICES: ",".join(gpus)} if gpus else {}
        self._processes.repro(self.nodes[name], PRETUNE_PARENT_RUN=self.record.id, **devices)

    def _executed(self, name: str) -> bool:
        """Whether the stage ran under this pipeline run, rather than being restored by DVC."""
        path = self.state / "stages" / f"{name}.json"
        return path.is_file() and json.loads(path.read_text(encoding="utf-8"))["parent"] == self.record.id

    def _finish(self, name: str, how: str, seconds: float) -> Outcome:
        if how != "ran":
            workspace = self._workspace if how == "skipped" else Workspace(self.root, wait=True)
            self._recording.add_cached_stage(self.nodes[name], workspace)
        self.outcomes[name] = Outcome(name, how, seconds)
        self.display.finish(name, how, seconds)
        return self.outcomes[name]


def run_plain(run: PipelineRun) -> None:
    """Run the stages in threads. Raises StageFailedError."""

    def submit(name: str, upstream: list[Future[Outcome]]) -> Future[Outcome]:
        return pool.submit(_run_stage, upstream, run, name)

    with ThreadPoolExecutor(len(run.nodes)) as pool:
        futures = schedule.submit_all(run.nodes, run.schedule, submit)
    raise_failures([error for future in futures.values() if (error := future.exception())])


def raise_failures(errors: list[BaseException]) -> None:
    """Raise one error for all stages that failed, without those that only waited for them."""
    failed = [error for error in errors if isinstance(error, PretuneError) and not isinstance(error, NotReachedError)]
    if not failed:
        for error in sorted(errors, key=lambda error: isinstance(error, NotReachedError)):
            raise error  # a defect in our code, rather than the stages that waited for it
        return
    merged = StageFailedError([line for error in failed for line in error.problems], failed[0].next_step)
    merged.exit_code = failed[0].exit_code
    raise merged


class NotReachedError(PretuneError):
    """A stage did not run because one that it depends on failed."""


def _run_stage(upstream: list[Future[Outcome]], run: PipelineRun, name: str) -> Outcome:
    """Run a stage, with the retries of dvc.yaml, if its upstream stages succeeded."""
    if any(future.exception() for future in upstream):
        raise NotReachedError(f"{name}: not reached")
    retries = int(run.nodes[name].meta.get("retries", 0))
    for attempt in range(retries + 1):
        try:
            return run.stage(name)
        except StageFailedError as error:
            if not error.retryable or attempt == retries:
                raise
    raise AssertionError
