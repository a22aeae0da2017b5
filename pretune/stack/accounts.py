"""Accounts of the MLflow server. Members may do all that Pretune does; readers may read.

`python -m pretune.stack.accounts NAME` makes a member, or gives it a new password, in a stack of containers: the
environment holds MLFLOW_TRACKING_URI, MLFLOW_ADMIN_PASSWORD and, as MLFLOW_TRACKING_PASSWORD, the account's password.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Mapping
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from pretune.errors import WorkspaceError

ADMIN = "admin"
SHARED = ("experiment", "registered_model")  # what a member may change, whoever made it
EXISTS = "RESOURCE_ALREADY_EXISTS"


def ensure(server: str, admin_password: str, name: str, password: str, *, member: bool) -> None:
    """Make an account, or give it this password. member: it may change what others made; else it may only read."""
    account: dict[str, Any] = {"username": name, "password": password}
    if _call(server, admin_password, "POST", "2.0/mlflow/users/create", account) == EXISTS:
        _call(server, admin_password, "PATCH", "2.0/mlflow/users/update-password", account)
    for kind in SHARED:
        grant = {"username": name, "resource_type": kind, "resource_id": "*"}
        if member:
            grant["permission"] = "MANAGE"
            _call(server, admin_password, "POST", "3.0/mlflow/users/permissions/grant", grant)
        else:
            _call(server, admin_password, "POST", "3.0/mlflow/users/permissions/revoke", grant)


def _call(server: str, password: str, method: str, path: str, body: Mapping[str, Any]) -> str:
    """Ask the server for a change; "" when it is made, else the code with which it says that nothing had to be."""
    token = base64.b64encode(f"{ADMIN}:{password}".encode()).decode()
    headers = {"Authorization": f"Basic {token}", "Content-Type": "application/json"}
    request = Request(f"{server}/api/{path}", json.dumps(body).encode(), headers, method=method)
    try:
        with urlopen(request, timeout=30):
            return ""
    except HTTPError as error:
        text = error.read().decode(errors="replace")
        code = _code(text)
        if code == EXISTS or (path.endswith("/revoke") and code == "RESOURCE_DOES_NOT_EXIST"):
            return code
        problem = f"MLflow at {server} refuses {path}: {error.code} {text[:200]}"
        raise WorkspaceError(
            problem, "pretune stack status   (is MLFLOW_ADMIN_PASSWORD in stack.env the first one?)"
        ) from None


def _code(text: str) -> str:
    try:
        return str(json.loads(text)["error_code"])
    except (ValueError, KeyError, TypeError):
        return ""


if __name__ == "__main__":
    server, admin, own = (
        os.environ[f"MLFLOW_{name}"] for name in ("TRACKING_URI", "ADMIN_PASSWORD", "TRACKING_PASSWORD")
    )
    ensure(server, admin, sys.argv[1], own, member=True)
