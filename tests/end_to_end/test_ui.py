from __future__ import annotations

import re
import signal
import socket
import urllib.error
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
    """`pretune ui` prints two addresses that answer, but for foreign pages; a run uses its server; Ctrl-C ends all."""
    mlflow, prefect = free_ports(2)
    command = ["-m", "cli.app", "ui", "--mlflow-port", str(mlflow), "--prefect-port", str(prefect)]
    ui = copy.start(*command)
    address = copy.state / "prefect-api-url"
    copy.wait(address.exists, "both servers", process=ui)
    for url in (f"http://127.0.0.1:{mlflow}/health", f"{address.read_text(encoding='utf-8')}/health"):
        with urllib.request.urlopen(url, timeout=30) as answer:
            assert answer.status == 200
    for url in (
        f"http://127.0.0.1:{mlflow}/ajax-api/2.0/mlflow/runs/search",
        f"http://127.0.0.1:{prefect}/api/flows/filter",
    ):
        for foreign in ({"Origin": "https://evil.example"}, {"Host": "evil.example"}):
            request = urllib.request.Request(url, b"{}", foreign | {"Content-Type": "application/json"})
            with pytest.raises(urllib.error.HTTPError, match="403"):
                urllib.request.urlopen(request, timeout=30)
    (copy.state / "logs" / "prefect-server.log").unlink()
    copy.pretune("run", "ingest")
    assert not (copy.state / "logs" / "prefect-server.log").exists(), "the run started a server of its own"
    ui.send_signal(signal.SIGINT)
    printed, _ = ui.communicate()
    assert f"http://127.0.0.1:{mlflow}" in printed
    assert f"http://127.0.0.1:{prefect}" in printed
    assert "Traceback" not in printed
    copy.wait_for_end()
    assert not address.exists()


def test_both_pages_work_in_a_browser(copy, browse):
    """MLflow compares two runs, with the setting that differs and what came out; Prefect lists the flow run."""
    copy.plain_run("--set", "evaluate.bootstrap_samples=250")
    first, second = copy.parents()
    mlflow, prefect = free_ports(2)
    ui = copy.start("-m", "cli.app", "ui", "--mlflow-port", str(mlflow), "--prefect-port", str(prefect))
    copy.wait((copy.state / "prefect-api-url").exists, "both servers", process=ui)
    name = f">{first.info.run_name}<"
    runs = f'["{first.info.run_id}","{second.info.run_id}"]'
    experiments = f'["{first.info.experiment_id}"]'
    metric = min(first.data.metrics)  # the page fills in the others when somebody scrolls there
    compared = (first.info.run_id, second.info.run_id, "evaluate.bootstrap_samples", metric)
    page = browse(f"http://127.0.0.1:{mlflow}/#/compare-runs?runs={runs}&experiments={experiments}", *compared)
    flow_runs = browse(f"http://127.0.0.1:{prefect}/runs", name, "Completed")
    ui.send_signal(signal.SIGINT)
    ui.communicate()
    assert name in flow_runs.dom
    assert "Completed" in flow_runs.dom
    found = f"{first.data.metrics[metric]:.3f}".rstrip("0").rstrip(".")  # as MLflow writes it
    for part in compared:
        assert part in page.dom
    for value in ("100", "250", found):
        assert re.search(rf">\s*{re.escape(value)}\s*<", page.dom), value
    assert not [line for line in page.console + flow_runs.console if "Uncaught" in line or "SEVERE" in line]
