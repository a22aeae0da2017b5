"""MLflow servers that refuse a request: nobody is named, the password is wrong, or the user may not do that."""

from __future__ import annotations

import os

from pretune.errors import RefusedError

UNKNOWN, FORBIDDEN = 401, 403
CODES = {"UNAUTHENTICATED": UNKNOWN, "PERMISSION_DENIED": FORBIDDEN, "CUSTOMER_UNAUTHORIZED": FORBIDDEN}
ON_THE_STACK = "on the machine of the stack"


def refusal(error: BaseException) -> RefusedError | None:
    """The message for an error that says that the tracking server refuses; None for any other error."""
    status = CODES.get(getattr(error, "error_code", None) or "")
    status = status or getattr(getattr(error, "response", None), "status_code", None)  # of requests, for artifacts
    server = f"MLflow at {os.environ.get('MLFLOW_TRACKING_URI', '?')}"
    user = os.environ.get("MLFLOW_TRACKING_USERNAME", "")
    if status == UNKNOWN and not user:
        step = "export MLFLOW_TRACKING_USERNAME=… MLFLOW_TRACKING_PASSWORD=…"
        step += f"   (pretune stack user NAME, {ON_THE_STACK}, prints them)"
        return RefusedError(f"{server} asks for a user and a password", step)
    if status == UNKNOWN:
        problem = f"{server} refuses the password of {user} (MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD)"
        return RefusedError(problem, f"pretune stack user {user}   ({ON_THE_STACK}: a new password)")
    if status == FORBIDDEN:
        problem = f"{server} does not let {user or 'this user'} do that: no permission"
        return RefusedError(problem, f"pretune stack user {user or 'NAME'}   ({ON_THE_STACK}: it may write then)")
    return None
