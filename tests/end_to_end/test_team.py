"""Two people in two clones, one stack: MLflow and Prefect with passwords, DVC in S3, one champion."""

from __future__ import annotations

import shutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
CONFTEST = str(Path(__file__).with_name("conftest.py"))
clones = next(module for module in list(sys.modules.values()) if getattr(module, "__file__", None) == CONFTEST)
OLD = {"MLFLOW_TRACKING_PASSWORD": "old"}
MLFLOW, PREFECT = "MLFLOW_TRACKING_URI", "PREFECT_API_URL"


class Person:
    """A clone, and what its owner has set for the servers of the stack."""

    def __init__(self, clone, stack, printed):
        self.clone = clone
        self.variables, commands = stack.account(printed)
        for command in commands:
            clone.run("-m", "dvc", *command)

    def pretune(self, *arguments, code=0, **other):
        """`pretune …` with those variables, some of them changed; an empty one is not set."""
        variables = {name: value for name, value in (self.variables | other).items() if value}
        return self.clone.pretune(*arguments, code=code, **variables)

    def run(self, *arguments):
        """`pretune run`: how each stage ended."""
        stages = self.clone.report("run", *arguments, **self.variables)["stages"]
        return {name: facts["outcome"] for name, facts in stages.items()}

    def mlflow(self, monkeypatch, **other):
        """A client of the shared MLflow, without keys of its store."""
        import mlflow

        for name, value in (self.variables | other).items():
            monkeypatch.setenv(name, value)
        return mlflow.MlflowClient(other.get(MLFLOW) or self.variables[MLFLOW])


def parents(client, person):
    """The pipeline runs of the person's commit, the oldest first: other tests use the same server."""
    commit = person.clone.git("rev-parse", "HEAD").strip()
    experiment = client.get_experiment_by_name("pretune").experiment_id
    query = f"tags.`pretune.kind` = 'pipeline' and tags.`git.commit` = '{commit}'"
    return list(client.search_runs([experiment], query, order_by=["attributes.start_time ASC"]))


@pytest.fixture(scope="module")
def team(stack, tmp_path_factory):
    """Ada has run the pipeline and pushed; Bob has the same commit. Their names stand in MLflow and Prefect alike."""
    ada = clones.make_clone(tmp_path_factory.mktemp("ada"))
    ada.set(gate__baselines=False)
    ada.git("commit", "--quiet", "--all", "--message", "an easy gate")
    bob = clones.Clone(tmp_path_factory.mktemp("bob") / "clone")
    shutil.copytree(ada.root, bob.root, symlinks=True)
    people = [Person(clone, stack, stack.pretune("user", name)) for clone, name in ((ada, "ada"), (bob, "bob"))]
    outcomes = people[0].run()
    assert "restored" not in outcomes.values()
    ada.run("-m", "dvc", "push", "--run-cache")
    yield people
    for clone in (ada, bob):
        clone.end_all()


def test_the_second_identical_run_restores_everything_and_both_are_on_record(team, monkeypatch, tmp_path):
    """Bob trains nothing and has Ada's bytes; one MLflow and one Prefect show both; artifacts come by the server."""
    ada, bob = team
    assert set(bob.run("--pull").values()) == {"restored"}
    assert bob.clone.hashes() == ada.clone.hashes()
    client = ada.mlflow(monkeypatch)
    first, second, *_ = parents(client, ada)
    assert {run.info.status for run in (first, second)} == {"FINISHED"}
    assert second.data.metrics == first.data.metrics
    found = client.search_runs([first.info.experiment_id], f"tags.`mlflow.parentRunId` = '{second.info.run_id}'")
    made = client.search_runs([first.info.experiment_id], f"tags.`mlflow.parentRunId` = '{first.info.run_id}'")
    sources = {run.info.run_name: run.info.run_id for run in made}
    assert {run.info.run_name: run.data.tags["pretune.source_run"] for run in found} == sources
    assert first.info.artifact_uri.startswith("mlflow-artifacts:")
    report = bob.mlflow(monkeypatch).download_artifacts(first.info.run_id, "report.html", str(tmp_path))
    assert Path(report).read_bytes() == (ada.clone.root / "reports" / "report.html").read_bytes()
    assert not list((ada.clone.root / "mlartifacts").glob("*"))
    assert not (ada.clone.root / "mlflow.db").exists()
    from prefect.client.orchestration import SyncPrefectClient

    with SyncPrefectClient(ada.variables[PREFECT], auth_string=ada.variables["PREFECT_API_AUTH_STRING"]) as prefect:
        names = [run.name for run in prefect.read_flow_runs()]
    assert {first.info.run_name, second.info.run_name} <= set(names)


def test_one_of_two_promotions_at_once_decides(team, monkeypatch):
    """PostgreSQL lets one in, the others are told who it is; then there is one version, everybody's champion."""
    ada, bob = team
    from pretune.errors import LockedError
    from pretune.release.registry import Registry

    registry = Registry(ada.mlflow(monkeypatch), "pretune")
    together, refused = threading.Barrier(4), threading.Semaphore(0)

    def promote(_):
        together.wait()
        try:
            with registry.lock():
                for _other in range(3):
                    assert refused.acquire(timeout=60)
        except LockedError:
            refused.release()
            return "refused"
        return "alone"

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(promote, range(4))) == ["alone", "refused", "refused", "refused"]
    with registry.lock():
        assert "error: pretune is being promoted by process" in bob.pretune("promote", code=5)
    assert "version 1 of pretune is @champion now" in bob.pretune("promote")
    assert registry.alias("champion").version == "1"
    assert len(registry.client.search_model_versions("name = 'pretune'")) == 1
    assert "models/finetuned" in ada.pretune("trace", "@champion")


def test_who_is_refused_is_told_by_whom_and_what_to_do(team, stack):
    """Wrong, missing and rotated passwords, a reader who writes: exit code 14, the server, the next command."""
    ada, _bob = team
    guest, _ = stack.account(stack.pretune("user", "guest", "--read-only"))
    reader = {name: guest[name] for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")}
    assert "models/finetuned" in ada.pretune("trace", "models/finetuned", **reader)
    mlflow, prefect = (
        f"error: MLflow at {ada.variables[MLFLOW]}",
        f"error: the Prefect server at {ada.variables[PREFECT]}",
    )
    nobody = {"MLFLOW_TRACKING_USERNAME": "", "MLFLOW_TRACKING_PASSWORD": ""}
    for command, changed, said in (
        (["trace", "models/finetuned"], OLD, f"{mlflow} refuses the password of ada"),
        (["trace", "models/finetuned"], nobody, f"{mlflow} asks for a user and a password"),
        (["compare", "HEAD"], OLD, f"{mlflow} refuses the password of ada"),
        (["promote"], reader, f"{mlflow} does not let guest do that"),
        (["run", "ingest"], {"PREFECT_API_AUTH_STRING": "a:b"}, f"{prefect} refuses PREFECT_API_AUTH_STRING"),
        (["run", "ingest"], {"PREFECT_API_AUTH_STRING": ""}, f"{prefect} asks for PREFECT_API_AUTH_STRING"),
    ):
        printed = ada.pretune(*command, code=14, **changed)
        assert said in printed
        assert "\nnext:  " in printed
        assert "Traceback" not in printed
    ada.clone.run("-m", "dvc", "remote", "modify", "--local", "team", "secret_access_key", "old")
    ada.clone.set(evaluate__bootstrap_samples=102)
    printed = ada.pretune("run", "--no-prefect", "--pull", code=14)
    assert "error: the DVC remote refuses its keys" in printed
    assert "Traceback" not in printed


def test_a_run_with_a_wrong_password_keeps_its_records(team, monkeypatch):
    """It warns and ends well; with the right password the next run sends what was kept."""
    _ada, bob = team
    bob.clone.set(evaluate__bootstrap_samples=101)
    printed = " ".join(bob.pretune("run", "--no-prefect", **OLD).split())  # it is wrapped
    assert "refuses the password of bob" in printed
    assert "they are kept in" in printed
    bob.clone.wait_for_end()
    assert bob.clone.journals()
    before = len(parents(bob.mlflow(monkeypatch), bob))
    bob.run("ingest", "--no-prefect")
    bob.clone.wait_for_end()
    assert bob.clone.journals() == []
    *_, kept, _ = parents(bob.mlflow(monkeypatch), bob)
    assert len(parents(bob.mlflow(monkeypatch), bob)) == before + 2
    assert kept.data.params["evaluate.bootstrap_samples"] == "101"


def test_a_backup_restored_elsewhere_has_runs_models_and_accounts(team, stack, monkeypatch, tmp_path):
    """The first stack stays as it is; the second, with other ports, answers Ada with the same password."""
    import mlflow.artifacts

    ada, _bob = team
    client = ada.mlflow(monkeypatch)
    run = parents(client, ada)[0]
    query = f"tags.`mlflow.parentRunId` = '{run.info.run_id}' and tags.`mlflow.runName` = 'evaluate'"
    (evaluation,) = client.search_runs([run.info.experiment_id], query)
    ada.pretune("promote", evaluation.info.run_id)
    stack.pretune("backup", str(tmp_path / "monday"))
    assert f"error: {tmp_path / 'monday'} exists already" in stack.pretune("backup", str(tmp_path / "monday"), code=9)
    other = type(stack)(stack.folder.with_name(f"{stack.folder.name}-restored"))
    other.folder.mkdir()
    try:
        other.choose_ports()
        other.pretune("restore", str(tmp_path / "monday"))
        assert "there is a stack in" in other.pretune("restore", str(tmp_path / "monday"), code=9)
        server = next(line for line in other.up().splitlines() if MLFLOW in line).partition("=")[2]
        assert server != ada.variables[MLFLOW]
        client = ada.mlflow(monkeypatch, **{MLFLOW: server})
        again = client.get_run(run.info.run_id)
        assert again.data.metrics == run.data.metrics
        report = client.download_artifacts(run.info.run_id, "report.html", str(tmp_path))
        assert Path(report).read_bytes() == (ada.clone.root / "reports" / "report.html").read_bytes()
        version = client.get_model_version_by_alias("pretune", "champion")
        assert version.version == "1"
        weights = next((ada.clone.root / "models" / "finetuned").glob("*.safetensors"))
        (model,) = {output.model_id for output in client.get_run(version.run_id).outputs.model_outputs}
        folder = mlflow.artifacts.download_artifacts(f"models:/{model}", tracking_uri=server)
        assert weights.read_bytes() in {path.read_bytes() for path in Path(folder).rglob(weights.name)}
    finally:
        other.pretune("down")
        shutil.rmtree(other.folder)
