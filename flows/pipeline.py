"""The graph of dvc.yaml as a Prefect flow: order, retries, parallel branches, artifacts.

Only DVC decides what is up to date: Prefect caches no task. A deployment runs the same flow: see prefect.yaml.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, TaskRun
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.tasks import Task

from flows import approval, events, summary
from flows.overrides import workspace_copy
from flows.runner import NotReachedError, PipelineRun, raise_failures
from flows.schedule import submit_all
from flows.summary import Outcome
from pretune.lineage.graph import find_root
from pretune.process import reach_loopback_directly
from pretune.release.promotion import Verdict
from pretune.runtime import progress


@flow(
    name="pretune",
    task_runner=ThreadPoolTaskRunner(max_workers=32),  # type: ignore[arg-type]
    log_prints=True,
    validate_parameters=True,
)
def pipeline(
    stages: list[str] | None = None,
    overrides: list[str] | None = None,
    *,
    promote: bool = False,
    approval_hours: float = 0.0,
    pull: bool = False,
) -> dict[str, Any]:
    """Bring `stages` (default: all) and what they depend on up to date.

    overrides: `section.key=value` entries, for this run only. promote: then have the gate decide on the model.
    approval_hours: above 0, the flow run pauses so long for a human before a model that passed becomes champion.
    pull: first fetch what others have computed already.
    """
    home = find_root()
    reach_loopback_directly()  # here for a deployment, which no command line starts
    with ExitStack() as stack:
        root = stack.enter_context(workspace_copy(home, overrides)) if overrides else home
        prefect_run = str(flow_run.id or "")
        run = PipelineRun(root, stages or [], progress.for_run(), home=home, prefect_run=prefect_run, pull=pull)
        with run:
            _rename(run.name)

            def submit(name: str, upstream: list[PrefectFuture[Outcome]]) -> PrefectFuture[Outcome]:
                return _task(run, name).submit(name, wait_for=upstream)  # type: ignore[call-overload,no-any-return]

            futures = submit_all(run.nodes, run.schedule, submit)
            raise_failures([error for future in futures.values() if (error := _error_of(future))])
            results = run.results()
            create_markdown_artifact(summary.markdown(results, run.outcomes.values()), key="pretune-result")
            card = run.root / "reports" / "data" / "card.md"
            if card.is_file():
                create_markdown_artifact(card.read_text(encoding="utf-8"), key="pretune-data-card")
        verdict = _promote(home, run.wait_until_sent(), approval_hours) if promote else ""
        return summary.as_dict(run.record.id, run.outcomes.values(), results, run.warning) | {"promotion": verdict}


def _rename(name: str) -> None:
    """Name the flow run like its run in MLflow."""
    with get_client(sync_client=True) as client:
        client.update_flow_run(flow_run.id, name=name)


def _promote(home: Path, run: str, approval_hours: float) -> str:
    """The gate's verdict and, if it waits for one, a human's; also as an artifact."""
    verdict = _decide(home, run, hold=approval_hours > 0)
    text = str(verdict)
    if verdict.passed and verdict.held:
        answer = approval.ask(home, verdict, approval_hours)
        text = str(_decide(home, run)) if answer.promote else approval.refused(verdict, answer.reason)
    create_markdown_artifact(f"```\n{text}\n```", key="pretune-promotion")
    return text


@task(name="promote", cache_policy=NO_CACHE, persist_result=False)
def _decide(home: Path, run: str, *, hold: bool = False) -> Verdict:
    return events.promote(home, run, hold=hold)


def _task(run: PipelineRun, name: str) -> Task[[str], Outcome]:
    """The Prefect task of a stage, with the retries that dvc.yaml sets in `meta`."""

    @task(
        name=name,
        task_run_name=name,
        description=run.nodes[name].desc,
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=int(run.nodes[name].meta.get("retries", 0)),
        retry_condition_fn=_may_retry,
    )
    def stage(stage_name: str) -> Outcome:
        return run.stage(stage_name)

    return stage


def _may_retry(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether a retry may help: a user's mistake would only be repeated."""
    error = state.result(raise_on_failure=False)
    return bool(getattr(error, "retryable", False))


def _error_of(future: PrefectFuture[Outcome]) -> BaseException | None:
    """Wait for a task. Returns the exception that it ended with, if any."""
    future.wait()
    if future.state.is_completed():
        return None
    if future.state.is_pending():  # Prefect's NotReady: a task that it waits for failed
        return NotReachedError("not reached")
    error = future.state.result(raise_on_failure=False)
    return error if isinstance(error, BaseException) else NotReachedError(str(error))
