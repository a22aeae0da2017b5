from __future__ import annotations

import re
import signal
import socket
import urllib.request

import pytest

pytestmark = pytest.mark.slow  # starts both servers


def free_ports(count):
    """Ports that nobody listens on."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def test_both_servers_answer_on_this_machine_and_end_with_the_command(copy):
    """`pretune ui` prints two addresses that answer and a run finds its Prefect server; Ctrl-C ends everything."""
    mlflow, prefect = free_ports(2)
    command = ["-m", "flows.cli", "ui", "--mlflow-port", str(mlflow), "--prefect-port", str(prefect)]
    ui = copy.start(*command)
    address = copy.state / "prefect-api-url"
    copy.wait(address.exists, "both servers", beside=ui)
    for url in (f"http://127.0.0.1:{mlflow}/health", f"{address.read_text(encoding='utf-8')}/health"):
        with urllib.request.urlopen(url, timeout=30) as answer:
            assert answer.status == 200
    copy.pretune("run", "ingest")
    assert "uvicorn.run" not in " ".join(copy.processes().values())
    ui.send_signal(signal.SIGINT)
    printed, _ = ui.communicate()
    assert f"http://127.0.0.1:{mlflow}" in printed
    assert f"http://127.0.0.1:{prefect}" in printed
    assert "Traceback" not in printed
    copy.wait_for_end()
    assert not address.exists()


def test_two_pipeline_runs_stand_side_by_side_in_the_browser(copy, browse):
    """MLflow's comparison page shows both runs, the setting that differs and what came out, without a complaint."""
    copy.plain_run("--set", "evaluate.resamples=250")
    first, second = copy.parents()
    mlflow, prefect = free_ports(2)
    ui = copy.start("-m", "flows.cli", "ui", "--mlflow-port", str(mlflow), "--prefect-port", str(prefect))
    copy.wait((copy.state / "prefect-api-url").exists, "both servers", beside=ui)
    runs = f'["{first.info.run_id}","{second.info.run_id}"]'
    experiments = f'["{first.info.experiment_id}"]'
    page = browse(f"http://127.0.0.1:{mlflow}/#/compare-runs?runs={runs}&experiments={experiments}")
    ui.send_signal(signal.SIGINT)
    ui.communicate()
    accuracy = f"{first.data.metrics['finetuned.accuracy']:.3f}".rstrip("0").rstrip(".")  # as MLflow writes it
    for part in (first.info.run_id, second.info.run_id, "evaluate.resamples", "finetuned.accuracy"):
        assert part in page.dom
    for value in ("100", "250", accuracy):
        assert re.search(rf">\s*{re.escape(value)}\s*<", page.dom), value
    assert not [line for line in page.console if "Uncaught" in line or "SEVERE" in line]
