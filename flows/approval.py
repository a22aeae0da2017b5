"""A promotion waits for a human: the flow run pauses, and goes on with the answer given in the UI or by a command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateName,
)
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput

from pretune.errors import NotFoundInRecordsError, PretuneError
from pretune.release import promotion
from pretune.release.promotion import Verdict

POLL = 2  # seconds between two looks at whether somebody has answered
NEWEST = 20  # of the flow runs that wait, how many are looked at


class NotApprovedError(PretuneError):
    """Nobody answered in time."""

    exit_code = 12


class Approval(RunInput):
    """The answer."""

    promote: bool
    reason: str = ""


def ask(root: Path, verdict: Verdict, hours: float) -> Approval:
    """Pause the flow run until somebody answers. Raises NotApprovedError after so many hours."""
    form = Approval.with_initial_data(description=f"```\n{verdict}\n```\n\nMake it @champion?")
    try:
        seconds = max(1, round(hours * 3600))
        answer = pause_flow_run(wait_for_input=form, timeout=seconds, poll_interval=POLL, key="approval")
    except FlowPauseTimeout:
        promotion.note(root, verdict, f"nobody answered within {hours:g} hours")
        raise NotApprovedError(
            f"nobody approved version {verdict.version} of {verdict.name} within {hours:g} hours: the champion stays",
            "pretune promote   (lets the gate alone decide)",
        ) from None
    promotion.note(root, verdict, f"{'approved' if answer.promote else 'refused'} {answer.reason}".strip())
    return answer


def refused(verdict: Verdict, reason: str) -> str:
    """What a refusal leaves."""
    because = f": {reason}" if reason else ""
    checks = "\n".join(map(str, verdict.checks))
    return f"{checks}\nversion {verdict.version} of {verdict.name} was refused{because}; the champion stays"


def answer(client: SyncPrefectClient, flow_run: str | None, *, promote: bool, reason: str) -> FlowRun:
    """Answer for the flow run of this id or name, which may be left out where only one waits."""
    waiting = _waiting(client)
    chosen = [run for run in waiting if flow_run in {None, run.name, str(run.id)}]
    if len(chosen) != 1:
        names = "; ".join(f"{run.id} ({run.name})" for run in waiting) or "no flow run"
        problem = f"not one flow run{f' {flow_run}' if flow_run else ''} waits for approval, but: {names}"
        raise NotFoundInRecordsError(problem, "pretune approve FLOW_RUN")
    response: Any = client.resume_flow_run(chosen[0].id, run_input={"promote": promote, "reason": reason})
    if response.status.value != "ACCEPT":
        raise NotFoundInRecordsError(
            f"flow run {chosen[0].name} was not resumed: {response.details.reason}", f"pretune approve {chosen[0].id}"
        )
    return chosen[0]


def _waiting(client: SyncPrefectClient) -> list[FlowRun]:
    """The flow runs of ours that wait for an answer, the newest first."""
    return client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=["pretune"])),
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(name=FlowRunFilterStateName(any_=["Paused"]))),
        sort=FlowRunSort.START_TIME_DESC,
        limit=NEWEST,
    )
