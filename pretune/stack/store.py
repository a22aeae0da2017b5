"""The S3 store: nanio, which keeps objects as files in a folder. `python -m pretune.stack.store` makes the buckets."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from pretune.errors import WorkspaceError
from pretune.stack.server import last_lines
from pretune.stack.settings import BUCKETS


def command(host: str, port: str, folder: Path | str) -> list[str]:
    """The server's command line; NANIO_ACCESS_KEY and NANIO_SECRET_KEY are its keys."""
    place = ["--host", host, "--port", port, "--data-dir", str(folder)]
    return [sys.executable, "-m", "nanio", "serve", *place, "--no-access-log", "--log-level", "warning"]


def create_buckets(client: Mapping[str, str], log: Path) -> None:
    """Create the buckets that are missing, with the environment of a client. WorkspaceError if that fails."""
    with log.open("ab") as file:
        made = subprocess.run(
            [sys.executable, "-m", "pretune.stack.store"], env=client, check=False, stdin=subprocess.DEVNULL,
            stdout=file, stderr=file,
        )  # fmt: skip
    if made.returncode:
        raise WorkspaceError(["the buckets could not be created:", *last_lines(log)], "pretune stack status")


def main() -> None:
    """Create the buckets that are missing in the store that AWS_ENDPOINT_URL and the keys beside it name."""
    import boto3

    client = boto3.client("s3")
    known = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
    for name in BUCKETS:
        if name not in known:
            client.create_bucket(Bucket=name)


if __name__ == "__main__":
    main()
