"""Joins the Ray cluster that PRETUNE_CLUSTER names."""

from __future__ import annotations

import os
import signal
import socket
import threading
from typing import Any

from pretune.errors import WorkspaceError

CLUSTER = "PRETUNE_CLUSTER"
TIMEOUT = 10  # seconds until a cluster has to accept a connection


def connect() -> Any:
    """Connect to the cluster that PRETUNE_CLUSTER names and return `ray`; None where it names none.

    Raises WorkspaceError where Ray is not installed or the cluster does not answer.
    """
    address = os.environ.get(CLUSTER)
    if not address:
        return None
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}  # read at its import
    try:
        import ray
    except ModuleNotFoundError:
        raise WorkspaceError(
            f"{CLUSTER} is {address}, but Ray is not installed",
            f"pip install 'pretune[cluster]'   (or: unset {CLUSTER})",
        ) from None
    if not ray.is_initialized():
        _init_ray(ray, address)
    return ray


def _init_ray(ray: Any, address: str) -> None:
    """Join the cluster. Ray replaces the handler of SIGTERM; put ours back."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        _check_reachable(address)
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # Ray has no exception class for this
        reason = [*str(error).strip().splitlines(), type(error).__name__][0]
        raise WorkspaceError(
            f"{CLUSTER}: the Ray cluster {address} cannot be joined ({reason})",
            f"ray start --head, on this machine, and {CLUSTER}=auto   (or: unset {CLUSTER})",
        ) from None
    finally:
        if in_main_thread:
            signal.signal(signal.SIGTERM, handler)


def _check_reachable(address: str) -> None:
    """Raise OSError where nothing listens at HOST:PORT: Ray itself would try for a minute."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), TIMEOUT).close()
