"""`pretune stack`: the servers of a team, as real processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import time
import urllib.error
import urllib.request

import psutil
import pytest

pytestmark = pytest.mark.slow


def state_of(stack, code=0):
    """{part: what `status --json` says}."""
    return {part["name"]: part for part in json.loads(stack.pretune("status", "--json", code=code))}


def test_all_parts_answer_here_only_and_ask_who_one_is(stack):
    """`status` says healthy; nothing listens on another address; nobody gets in without a password, or from a page."""
    parts = state_of(stack)
    assert list(parts) == ["postgres", "store", "mlflow", "prefect", "worker"]
    assert all(part["healthy"] and part["address"].startswith("127.0.0.1:") for part in parts.values())
    ports = {int(part["address"].rpartition(":")[2]) for part in parts.values()}
    listening = {c.laddr for c in psutil.net_connections("tcp") if c.status == "LISTEN" and c.laddr.port in ports}
    assert {address.ip for address in listening} == {"127.0.0.1"}
    assert {address.port for address in listening} == ports
    mlflow, prefect, store = (f"http://{parts[name]['address']}" for name in ("mlflow", "prefect", "store"))
    for url, headers, code in (
        (f"{mlflow}/api/2.0/mlflow/experiments/get?experiment_id=0", {}, 401),
        (f"{mlflow}/api/2.0/mlflow/experiments/get?experiment_id=0", {"Host": "evil.example"}, 403),
        (f"{prefect}/api/admin/version", {}, 401),
        (f"{prefect}/api/health", {"Host": "evil.example"}, 403),
        (f"{prefect}/api/health", {"Origin": "https://evil.example"}, 403),
        (f"{store}/mlflow/some-model", {}, 403),
    ):
        request = urllib.request.Request(url, headers=headers)
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=30)
        refused.value.close()
        assert refused.value.code == code, url


def test_secrets_lie_in_one_file_that_only_its_owner_reads(stack):
    """Not in a command line, where every user of the machine sees them."""
    file = stack.folder / "stack.env"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    lines = dict(line.split("=", 1) for line in file.read_text(encoding="utf-8").splitlines())
    secrets = [value for value in lines.values() if len(value) >= 20]
    assert len(secrets) == 7
    pids = [part["pid"] for part in state_of(stack).values()]
    processes = [p for pid in pids for p in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]]
    shown = " ".join(word for process in processes for word in process.cmdline())
    assert not [secret for secret in secrets if secret in shown]


def test_a_part_that_was_killed_is_started_again_and_the_others_go_on(stack):
    """`status` ends with 10 and says which; `up` starts that one."""
    before = state_of(stack)
    os.kill(before["worker"]["pid"], signal.SIGKILL)
    while psutil.pid_exists(before["worker"]["pid"]):
        if psutil.Process(before["worker"]["pid"]).status() == psutil.STATUS_ZOMBIE:
            break
        time.sleep(0.02)
    down = state_of(stack, code=10)
    assert [name for name, part in down.items() if not part["healthy"]] == ["worker"]
    printed = stack.up()
    assert printed.count("runs already") == 4
    after = state_of(stack)
    assert {n: p["pid"] for n, p in after.items() if n != "worker"} == {
        n: p["pid"] for n, p in before.items() if n != "worker"
    }


def test_a_part_that_fails_ends_with_its_log_and_stops_the_others(stack):
    """The message has the log's last lines and the next command; nothing is left. A taken port is told before."""
    broken = type(stack)(stack.folder.with_name(f"{stack.folder.name}-broken"))
    broken.folder.mkdir()
    try:
        lines = (stack.folder / "stack.env").read_text(encoding="utf-8").splitlines()
        ports = [line for line in lines if "_PORT=" in line]
        (broken.folder / "stack.env").write_text("\n".join(ports), encoding="utf-8")
        printed = broken.pretune("up", code=5)
        assert f"error: port {ports[0].partition('=')[2]} of postgres is in use" in printed
        (broken.folder / "stack.env").unlink()
        (broken.folder / "postgres").mkdir()  # of a server that never was
        printed = broken.up(code=9)
        assert "error: postgres did not start; the end of" in printed
        assert "No such file or directory" in printed
        assert "next:  look into" in printed
        assert "Traceback" not in printed
        assert not any(part["pid"] for part in state_of(broken, code=10).values())
    finally:
        shutil.rmtree(broken.folder)
