"""Events that a Prefect server's automations answer, and what sends them. A server that is away stops nothing.

`pretune.gate.refused`, `pretune.champion.changed`: about a model in the registry. `pretune.data.changed`: about a
workspace, in which stages are out of date.
"""

from __future__ import annotations

import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flows import prefect_api
from pretune.release import promotion
from pretune.release.promotion import Verdict
from pretune.release.registry import Registry

REFUSED, CHAMPION, CHANGED = "pretune.gate.refused", "pretune.champion.changed", "pretune.data.changed"


def promote(root: Path, run: str | None, *, hold: bool = False) -> Verdict:
    """Have the gate decide, as `pretune.release.promotion.decide` does, and tell Prefect."""
    verdict = promotion.decide(root, run, hold=hold)
    failed = [str(check) for check in verdict.checks if not check.passed]
    facts = {"version": verdict.version, "former": verdict.former or "none"}
    if failed:
        emit(root, REFUSED, f"model.{verdict.name}", facts | {"reasons": "\n".join(failed)})
    elif not verdict.held and verdict.version != verdict.former:
        emit(root, CHAMPION, f"model.{verdict.name}", facts | {"reasons": "passed the gate"})
    return verdict


def rollback(root: Path, registry: Registry) -> tuple[str, str]:
    """Make the former champion the champion again, and tell Prefect; (version before, version now)."""
    before, now = promotion.rollback(registry)
    emit(root, CHAMPION, f"model.{registry.name}", {"version": now, "former": before, "reasons": "rolled back"})
    return before, now


def emit(root: Path, event: str, subject: str, payload: dict[str, Any]) -> None:
    """Send an event to the server that is set or that `pretune ui` runs, if there is one; a failure is only told."""
    url = prefect_api.configured(root)
    if url is None:
        return
    try:
        if not prefect_api.answers(url):
            raise ConnectionError("it does not answer")
        with prefect_api.connect(url) as client:
            client.request("POST", "/events", json=[_event(event, subject, payload)])
    except Exception as error:  # whatever goes wrong there: the work here is done
        reason = str(error).partition("\n")[0]
        print(f"warning: Prefect at {url} was not told of {event}: {reason}", file=sys.stderr)


def _event(event: str, subject: str, payload: dict[str, Any]) -> dict[str, Any]:
    from prefect.runtime import flow_run

    resource = {"prefect.resource.id": f"pretune.{subject}", "prefect.resource.name": subject.partition(".")[2]}
    run = {"prefect.resource.id": f"prefect.flow-run.{flow_run.id}", "prefect.resource.role": "flow-run"}
    return {
        "id": str(uuid.uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": event,
        "resource": resource,
        "related": [run] if flow_run.id else [],
        "payload": payload,
    }
