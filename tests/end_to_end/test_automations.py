from __future__ import annotations

import json
import signal
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue
from typing import Any

import pytest

pytestmark = pytest.mark.slow  # one Prefect server for all
FLOWS = """
from flows.pipeline import pipeline
for hours in (0.0001, 1.0, 1.0):
    try:
        print(pipeline(stages=["evaluate"], promote=True, approval_hours=hours)["promotion"])
    except Exception as error:
        print(error)
"""
BLOCK = """
from prefect.blocks.notifications import CustomWebhookNotificationBlock as Webhook
text = {"subject": "{{subject}}", "body": "{{body}}"}
Webhook(name="team", url="http://127.0.0.1:%d/", json_data=text).save("team", overwrite=True)
"""


@dataclass
class Team:
    """A workspace with a Prefect server, and what it was notified of."""

    clone: Any
    url: str
    inbox: Queue[dict[str, str]]
    others: list[dict[str, str]] = field(default_factory=list)

    def pretune(self, *arguments, **options):
        """`pretune …` with the server set."""
        return self.clone.pretune(*arguments, PREFECT_API_URL=self.url, **options)

    def prefect(self, *arguments):
        """`prefect …`, asked nothing."""
        place = {"PREFECT_API_URL": self.url, "PWD": str(self.clone.root)}  # which prefect.yaml names
        return self.clone.alone("-m", "prefect", "--no-prompt", *arguments, **place)

    def notified(self, words):
        """The next message with these words in its subject. Those of other automations may come before it."""
        while not any(words in message["subject"] for message in self.others):
            self.others.append(self.inbox.get(timeout=300))
        found = next(message for message in self.others if words in message["subject"])
        self.others.remove(found)
        return found

    def champion(self):
        """The number of the champion, if there is one."""
        import mlflow

        client = mlflow.MlflowClient(f"sqlite:///{self.clone.root / 'mlflow.db'}")
        version = client.get_registered_model("pretune").aliases.get("champion")
        return version and str(version)


@pytest.fixture(scope="module")
def team(finished, copy_of, tmp_path_factory):
    """A finished workspace; its server notifies a webhook."""
    from flows import prefect_server

    inbox: Queue[dict[str, str]] = Queue()

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self):
            inbox.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    receiver = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    clone = copy_of(finished, tmp_path_factory.mktemp("team"))
    clone.set(gate__baselines=False, gate__lineage=False)
    with prefect_server.socket.socket() as probe:
        probe.bind((prefect_server.HOST, 0))
        port = probe.getsockname()[1]
    log = clone.root.parent / "server.log"
    server = prefect_server.start_server(clone.root, port, log)
    team = Team(clone, f"http://{prefect_server.HOST}:{port}/api", inbox)
    try:
        assert prefect_server.wait(server, team.url), log.read_text(encoding="utf-8")
        clone.alone("-c", BLOCK % receiver.server_port, PREFECT_API_URL=team.url)
        yield team
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()
        receiver.shutdown()
        receiver.server_close()
        clone.end_all()


def test_a_refused_gate_and_a_failed_run_are_told(team):
    """`pretune notify` creates the automations once; each sends its message, with the reason, to the block."""
    printed = team.pretune("notify", "slack-webhook/nobody", code=4)
    assert "it has custom-webhook/team" in printed
    for _ in range(2):  # a second call replaces what the first has made
        assert team.pretune("notify", "custom-webhook/team").count("pretune: ") == 4

    team.clone.set(gate__thresholds={"accuracy": 2.0})
    team.pretune("promote", code=12)
    assert "accuracy: interval" in team.notified("version 1 of pretune did not pass the gate")["body"]
    assert team.champion() is None
    team.pretune("run", "ingest", "--set", "ingest.source=nothing.jsonl", code=3)
    assert "nothing.jsonl" in team.notified("failed")["body"]


def test_a_promotion_waits_for_a_human(team):
    """The champion stays when somebody refuses or nobody answers in time, and changes when somebody approves."""
    team.clone.set(gate__thresholds={})
    flows = team.clone.start("-c", FLOWS, PREFECT_API_URL=team.url)
    for words in ("documents modernbert waits for approval", "documents modernbert failed"):
        team.notified(words)
    for options in (["--refuse", "--reason", "too slow"], []):
        command = team.notified("waits for approval")["body"].splitlines()[0]
        assert team.champion() is None
        team.pretune(*command.removeprefix("pretune ").split(), *options)
    told, _ = flows.communicate(timeout=300)
    assert "version 1 of pretune was refused: too slow; the champion stays" in told
    assert "nobody approved version 1 of pretune" in told
    assert "version 1 of pretune is @champion now" in told
    team.notified("version 1 of pretune is @champion")
    assert team.champion() == "1"
    assert "no flow run" in team.pretune("approve", code=4)


@pytest.mark.nightly  # four processes that import Prefect, and the whole pipeline
def test_changed_data_start_a_run(team):
    """`prefect.yaml` as it is: its watch sends an event, whose trigger has a worker run the pipeline, once."""
    from flows import prefect_api

    team.prefect("work-pool", "create", "pretune", "--type", "process")
    team.prefect("deploy", "--all")
    worker = team.clone.start(
        "-m", "prefect", "worker", "start", "--pool", "pretune",
        PREFECT_API_URL=team.url, PREFECT_WORKER_QUERY_SECONDS="1",
    )  # fmt: skip
    with (team.clone.root / "documents.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"text": "a reef of salt and the tide", "label": "sea"}\n')
    ingest = team.clone.locked()["ingest"]
    assert not team.clone.dvc_is_clean()
    for _ in range(2):
        team.prefect("deployment", "run", "pretune-watch/watch", "--watch")
    with prefect_api.connect(team.url) as client:
        started = client.read_deployment_by_name("pretune/pipeline").id

        def ended():
            runs = [run for run in client.read_flow_runs() if run.deployment_id == started]
            assert len(runs) < 2
            return runs and runs[0].state.is_final() and runs[0].state

        assert team.clone.wait(ended, "the run", process=worker).is_completed()
    worker.send_signal(signal.SIGINT)
    worker.communicate()
    assert team.clone.locked()["ingest"] != ingest
    assert team.clone.dvc_is_clean()


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("kind", "options", "variables"),
    [
        ("docker", [], {"image": "pretune:cpu", "volumes": ["/srv/pretune:/srv/pretune"]}),
        (
            "kubernetes",
            ["--base-job-template", "deploy/kubernetes-job.json"],
            {"image": "i", "workspace": "/srv/pretune"},
        ),
    ],
)
def test_containers_take_the_workspace(kind, options, variables, team):
    """Pools for containers take prefect.yaml as it is, with the image and the place of the workspace as variables."""
    from flows import prefect_api

    team.prefect("work-pool", "create", kind, "--type", kind, *options)
    given = [word for name, value in variables.items() for word in ("--job-variable", json.dumps({name: value}))]
    team.prefect("deploy", "--name", "pipeline", "--pool", kind, *given)
    with prefect_api.connect(team.url) as client:
        assert client.read_deployment_by_name("pretune/pipeline").job_variables.items() >= variables.items()
