"""Runs a sweep: asks for points, has their runs done side by side, stops those that are worse, and tests the best."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

from flows.sweep import report
from flows.sweep.cluster import Cluster
from flows.sweep.display import SweepDisplay
from flows.sweep.folder import SweepFolder, value_of
from flows.sweep.pool import INTERRUPTED, LocalChannel, Pool, Share, Start, Worker, shares
from flows.sweep.slot import Request
from pretune import process
from pretune.errors import StageFailedError, TerminatedError
from pretune.lineage import provenance
from pretune.lineage.graph import Workspace
from pretune.studies import outcomes
from pretune.studies.outcomes import PRUNED
from pretune.studies.search import Proposal
from pretune.studies.verdict import describe
from pretune.tracking.journal import NOTE, Run
from pretune.tracking.sender import Sender

DOES_NOT_FIT, DIVERGED = 11, 8  # exit codes of a stage
HOPELESS = 3  # trials that fail before any succeeds end the sweep
AT_ONCE = 8  # points of a batch for each slot, where the next ones do not depend on them


class Sweep:
    """One sweep on its way. minutes: of work after which no further run is started."""

    def __init__(self, folder: SweepFolder, *, minutes: float | None = None) -> None:
        self.folder, self.settings = folder, folder.settings
        self._deadline = time.monotonic() + 60 * minutes if minutes else None
        self._failures: list[list[str]] = []
        self._validations: dict[int, int] = {}  # of each trial, so far
        self._ended: dict[int, str] = {}  # trials that need no further runs

    def run(self) -> bool:
        """Run what is left. Returns whether all is done; False if the budget has ended first."""
        folder = self.folder
        with ExitStack() as stack:
            stack.enter_context(process.lock(folder.path / "sweep.lock", f"the sweep {folder.name}"))
            self._search = folder.search()
            record = self._record = self._open_record()
            sender = Sender(folder.home, folder.state).start()
            pool = self._pool = stack.enter_context(Pool(folder.home, folder.state, folder.path, *self._parts()))
            self._display = SweepDisplay(self._points() * self.settings.seeds, self._count_done())
            stack.callback(self._display.close)
            stack.enter_context(process.stop_signals(self._interrupt))
            status = "FAILED"
            try:
                self._search_all(pool)
                done = self._is_complete()
                if done:
                    self._look_at_test_rows(pool)
                status = "FINISHED" if done else "KILLED"
            except (KeyboardInterrupt, TerminatedError):
                status = "KILLED"
                raise
            finally:
                self._describe(record)
                record.end(status)
                self.warning = sender.close([record])
        return done

    def _parts(self) -> tuple[list[Share], Start]:
        """What each trial may use, and what starts its process: here, or on a cluster where one is named."""
        node = Workspace(self.folder.home).node(self.settings.stage)
        memory = outcomes.last_memory(self.folder.state, self.settings.last)
        noted = self.folder.path / "parallel"  # as many as when the sweep began, for the search depends on the number
        count = int(noted.read_text(encoding="utf-8")) if noted.is_file() else self.settings.parallel
        start: Start = LocalChannel
        if cluster := Cluster.connect(self.folder.home, self.folder.path):
            parts, start = cluster.shares(node, self.folder.params, count, memory), cluster.start
        else:
            parts = shares(node, self.folder.params, count, memory)
        noted.write_text(str(len(parts)), encoding="utf-8")
        return parts, start

    def _open_record(self) -> Run:
        """The sweep's record in MLflow: a new one, or the former one gone on with."""
        file = self.folder.path / "record"
        former = file.read_text(encoding="utf-8") if file.is_file() else ""
        tags = provenance.tags(self.folder.home) | {"pretune.kind": "sweep", "pretune.sweep": self.folder.name}
        record = Run(self.folder.state, f"sweep {self.folder.name}", tags=tags, continues=former)
        if not former:
            file.write_text(record.id, encoding="utf-8")
            record.params(self.settings.model_dump(exclude={"space"}) | self.settings.space)
        return record

    def _is_complete(self) -> bool:
        """Whether no trial is left to run."""
        ended = sum(trial.state != "running" for trial in self._search.results())
        return ended >= self._points() or bool(self._search.exhausted)

    def _points(self) -> int:
        """The trials that there will be, unless the space has fewer points."""
        points = self.settings.trials
        if self.settings.sampler == "grid":
            grid = self.settings.points or self.folder.space.grid()
            whole = sum(not self.folder.infeasible(point) for point in grid)
            points = min(points or whole, whole)
        assert points, "validate() requires it of all other samplers"
        return points

    def _count_done(self) -> int:
        return len(list((self.folder.path / "runs").glob("*.json")))

    def _search_all(self, pool: Pool) -> None:
        """Run batch after batch: within one, no point depends on another."""
        learns = self.settings.sampler in {"tpe", "nsga2"} or self.settings.pruner != "none"
        size = pool.size if learns else AT_ONCE * pool.size
        batch = self._search.interrupted()
        while True:
            for _ in range(self._search.lacking(size)):
                if self._out_of_time() or not (proposal := self._search.propose()):
                    break
                batch.append(proposal)
            if not batch or self._out_of_time():
                break
            self._run_batch(pool, batch)
            batch = []
        if self._search.exhausted:
            self._display.line(self._search.exhausted)

    def _run_batch(self, pool: Pool, batch: list[Proposal]) -> None:
        by_number = {proposal.number: proposal for proposal in batch}
        requests = [
            self._request(proposal.number, proposal.point, seed, "validation")
            for seed in range(self.settings.seeds)
            for proposal in batch
            if self.folder.outcome(proposal.number, seed) is None
        ]
        for proposal in batch:  # complete, but killed before that was told
            self._tell_if_complete(proposal)

        def skip(request: Request) -> bool:
            return request.number in self._ended or self._out_of_time()

        def on_event(request: Request, event: dict[str, Any], worker: Worker) -> None:
            self._on_event(by_number[request.number], request, event, worker)

        def on_done(request: Request, outcome: dict[str, Any]) -> None:
            self._on_done(by_number[request.number], request, outcome)

        pool.run(requests, skip, on_event, on_done)

    def _request(self, number: int, point: dict[str, Any], seed: int, split: str) -> Request:
        folder = self.folder
        wanted = split if self.settings.needs_predictions or split == "test" else ""
        tags = {"pretune.sweep": folder.name, "pretune.trial": str(number), "pretune.trial_seed": str(seed)}
        name = f"trial {number} · {describe(point)}" + (f" · seed {seed}" if self.settings.seeds > 1 else "")
        return Request(
            number, seed, folder.assignments(point, seed), self.settings.stage, self._record.id, name,
            str(folder.params_file), wanted, str(folder.predictions), str(folder.costs),
            str(folder.state / "locks" / "shared"), tags,
        )  # fmt: skip

    def _on_event(self, proposal: Proposal, request: Request, event: dict[str, Any], worker: Worker) -> None:
        name = _name(request)
        if event["event"] == "warning":
            self._display.line(f"warning: {name}: {event['text']}")
        elif event["event"] == "stage":
            self._display.running(name, event["stage"])
        elif event["event"] == "progress":
            self._display.running(name, f"{event['stage']}  {event['note']}", event["done"], event["total"])
        elif event["event"] == "validation" and event["stage"] == self.settings.stage and request.seed == 0:
            if self.settings.pruner == "none":
                return
            self._validations[proposal.number] = event["number"]
            if self._search.report(proposal, event["number"], self._watched(event["metrics"])):
                worker.stop(PRUNED)

    def _watched(self, metrics: dict[str, float]) -> float:
        """The value of a validation by which trials are pruned: the metric if it is validated, else the loss."""
        metric = self.settings.metrics[0]
        if metric == "headline":
            metric = next((name for name in metrics if name != "loss"), "loss")
        if metric in metrics:
            return metrics[metric]
        return -metrics["loss"] if self.folder.higher[0] else metrics["loss"]

    def _on_done(self, proposal: Proposal, request: Request, outcome: dict[str, Any]) -> None:
        number, name = proposal.number, _name(request)
        self._display.ended(name)
        if outcome["ended"] == "complete":
            for metric in self.settings.metrics:
                value_of(outcome, metric)  # raises
            self.folder.keep_outcome(number, request.seed, outcome)
            self._tell_if_complete(proposal)
            return
        problem = "; ".join(outcome["problems"])
        if problem == INTERRUPTED:
            return
        if problem == PRUNED:
            note = f"pruned after validation {self._validations[number]}"
            self._end(proposal, "pruned", note)
            return
        kind = "left out" if outcome["code"] == DOES_NOT_FIT else "failed"
        self._end(proposal, kind, problem, final=kind == "left out" or outcome["code"] == DIVERGED)
        if kind == "failed" and outcome["code"] != DIVERGED:
            self._failures.append(outcome["problems"])
            if len(self._failures) >= HOPELESS and not self._count_done():
                raise StageFailedError(
                    [f"the first {HOPELESS} trials failed; the last:", *self._failures[-1]],
                    f"pretune run {self.settings.stage}   (with the values in params.yaml)",
                )

    def _tell_if_complete(self, proposal: Proposal) -> None:
        found = self.folder.complete_outcomes(proposal.number).values()
        if len(found) < self.settings.seeds:
            return
        values = [sum(value_of(one, metric) for one in found) / len(found) for metric in self.settings.metrics]
        self._search.tell(proposal, values, self.folder.seed_results(proposal.number))
        self._ended[proposal.number] = "complete"
        name = self.folder.metric_name
        self._record.metrics({f"trial/{name}": values[0]}, step=proposal.number)
        shown = " ".join(f"{value:.4g}" for value in values)
        self._display.line(f"trial {proposal.number}  {describe(proposal.point)}  {name} {shown}")
        best = self.folder.judge.best(self._search.results())
        if best:
            self._display.best(f"best {best[0].value:.4g} (trial {best[0].number})")

    def _end(self, proposal: Proposal, state: Any, note: str, *, final: bool = True) -> None:
        seeds = self.folder.seed_results(proposal.number)
        self._search.tell_ended(proposal, state, note, seeds, final=final)
        self._ended[proposal.number] = state
        self._display.line(f"trial {proposal.number}  {describe(proposal.point)}  {state}: {note}")

    def _look_at_test_rows(self, pool: Pool) -> None:
        """Have the best trial, and no other unless all are asked for, predict the test rows, with all its seeds."""
        best = self.folder.judge.best(self._search.results())
        asked = {"best": best[:1], "all": best, "none": []}[self.settings.tested]
        chosen = {trial.number: trial for trial in asked if self.folder.test(trial.number) is None}
        if not chosen or not self.settings.needs_predictions:
            return
        numbers = ", ".join(map(str, chosen))
        self._display.line(f"the test rows, for trial {numbers} only …" if len(chosen) == 1 else "the test rows …")
        predicted: dict[int, dict[int, str]] = {number: {} for number in chosen}

        def on_done(request: Request, outcome: dict[str, Any]) -> None:
            if outcome["ended"] != "complete":
                raise StageFailedError(outcome["problems"], f"pretune sweep resume {self.folder.name}")
            files = predicted[request.number]
            files[request.seed] = outcome["held_out"]
            if len(files) == self.settings.seeds:
                self.folder.keep_test(request.number, [files[seed] for seed in sorted(files)])

        requests = [
            self._request(trial.number, trial.point, seed.seed, "test")
            for trial in chosen.values()
            for seed in trial.seeds
        ]
        pool.run(requests, lambda _: False, lambda *_: None, on_done)

    def _describe(self, record: Run) -> None:
        """Leave the report, in the workspace and as an artifact of the sweep's record."""
        view = report.view(self.folder, self._search)
        path = report.write(view)
        record.text("sweep.html", path.read_text(encoding="utf-8"))
        record.tags({NOTE: "\n\n".join(view.sentences)})

    def _out_of_time(self) -> bool:
        return self._deadline is not None and time.monotonic() > self._deadline

    def _interrupt(self, number: int) -> None:
        import signal

        self._pool.stop(INTERRUPTED)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise TerminatedError("stopped by SIGTERM", f"pretune sweep resume {self.folder.name}")


def _name(request: Request) -> str:
    return f"trial {request.number}" + (f" seed {request.seed}" if request.seed else "")
