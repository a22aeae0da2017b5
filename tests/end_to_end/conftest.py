"""Fresh clones of the project with a tiny model, driven from outside as a user drives them."""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import importlib.util
import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

PROJECT = Path(__file__).resolve().parents[2]
FOREIGN = ("PREFECT_", "MLFLOW_", "PRETUNE_", "DVC_")
TIMEOUT = 600  # seconds after which a command or a wait counts as hung
LONG = 150  # steps of pretraining: some seconds
WAYS = {
    "flow": ["-m", "cli.app", "run"],
    "plain": ["-m", "cli.app", "run", "--no-prefect"],
    "dvc": ["-m", "dvc", "repro"],
}
Once = Callable[[str, Callable[[Path], None]], Path]
WORDS = {"sea": "wave tide ship salt sail reef", "sky": "cloud star moon wind bird", "land": "hill rock tree soil"}


def new_mark() -> str:
    """A mark for the processes of one clone; all are of one length."""
    return f"clone-{uuid.uuid4().hex}"


class Warm:
    """A process that has imported what commands need, and forks one for each."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="pretune-warm-")
        self._path = f"{self._folder.name}/socket"
        command = [sys.executable, str(Path(__file__).with_name("warm.py")), self._path]
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1"}
        quiet |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "CLONE_MARK": new_mark()}
        self._server = subprocess.Popen(
            command, cwd="/", env=os.environ | quiet, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )
        atexit.register(self.close)
        assert self._server.stdout
        assert self._server.stdout.readline() == "ready\n"

    def close(self) -> None:
        """End it."""
        self._server.kill()
        self._server.communicate()
        self._folder.cleanup()

    def run(self, arguments: tuple[str, ...], cwd: Path, environment: dict[str, str], streams: tuple[Any, Any]) -> int:
        """Run `python ARGUMENTS…` to its end; return its exit code."""
        request = json.dumps({"arguments": arguments, "cwd": str(cwd), "environment": environment})
        with socket.socket(socket.AF_UNIX) as connection, Path(os.devnull).open() as nothing:
            connection.settimeout(TIMEOUT)
            connection.connect(self._path)
            socket.send_fds(
                connection, [request.encode()], [nothing.fileno(), *(stream.fileno() for stream in streams)]
            )
            file = connection.makefile()
            pid = int(file.readline())
            try:
                return int(file.readline())
            except TimeoutError:
                os.killpg(pid, signal.SIGKILL)
                raise


warm_server = functools.cache(Warm)


@functools.cache
def stages_of(text: str) -> dict[str, Any]:
    """The stages of a dvc.yaml or dvc.lock: long files, which are read often."""
    return dict(YAML(typ="safe", pure=True).load(text)["stages"])


@dataclass
class Clone:
    """A git clone of the project in a folder of its own; every process started from it carries `mark`."""

    root: Path
    mark: str = field(default_factory=new_mark)

    @property
    def state(self) -> Path:
        """What is nobody's output."""
        return self.root / ".pretune"

    def environment(self, **more: str) -> dict[str, str]:
        """The user's environment: nothing of the tools is set in it unless `more` says so."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(FOREIGN)}
        home = self.root.parent / "home"
        home.mkdir(exist_ok=True)
        path = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", "")])
        variables = {"HOME": str(home), "PATH": path, "CLONE_MARK": self.mark, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
        return kept | variables | more

    def start(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        """Start a Python command line in the background, in a session of its own."""
        return subprocess.Popen(
            [sys.executable, *arguments], cwd=self.root, env=self.environment(**env), start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def alone(self, *arguments: str, code: int = 0, **env: str) -> str:
        """Run a Python command line to its end, in a process of its own; return what it printed (both streams)."""
        started = self.start(*arguments, **env)
        printed = started.communicate(timeout=TIMEOUT)[0]
        assert started.returncode == code, f"exit code {started.returncode}, not {code}:\n{printed}"
        return printed

    def run(self, *arguments: str, code: int = 0, errors: Path | None = None, **env: str) -> str:
        """The same in a process that is forked from a warm one (see warm.py); errors may go elsewhere."""
        with tempfile.TemporaryFile("w+") as out, (errors or Path(os.devnull)).open("w+") as err:
            streams = (out, err if errors else out)
            ended = warm_server().run(arguments, self.root, self.environment(**env), streams)
            out.seek(0)
            printed = out.read()
        errors_text = errors.read_text(encoding="utf-8") if errors else ""
        assert ended == code, f"exit code {ended}, not {code}:\n{printed}{errors_text}"
        return printed

    def run_pipeline(self, name: str, **env: str) -> str:
        """Run the whole pipeline in one of the WAYS; return what it printed."""
        if name != "tasks":
            return self.alone(*WAYS[name], **env)
        return "".join(self.alone("-m", "tasks", stage, **env) for stage in self.stages())

    def pretune(self, *arguments: str, code: int = 0, **env: str) -> str:
        """`pretune …`."""
        return self.run("-m", "cli.app", *arguments, code=code, **env)

    def report(self, *arguments: str, code: int = 0, **env: str) -> Any:
        """`pretune … --json`: standard output has to be one JSON value and nothing else."""
        errors = self.root.parent / "stderr.txt"
        return json.loads(self.run("-m", "cli.app", *arguments, "--json", code=code, errors=errors, **env))

    def plain_run(self, *arguments: str, **env: str) -> dict[str, str]:
        """`pretune run --no-prefect`: how each stage ended."""
        stages = self.report("run", "--no-prefect", *arguments, **env)["stages"]
        return {stage: facts["outcome"] for stage, facts in stages.items()}

    def git(self, *arguments: str) -> str:
        """`git …`."""
        return subprocess.run(
            ["git", *arguments], cwd=self.root, env=self.environment(), check=True, capture_output=True, text=True
        ).stdout

    def dvc_is_clean(self) -> bool:
        """Whether `dvc status` finds nothing to do."""
        return json.loads(self.run("-m", "dvc", "status", "--json")) == {}

    def stages(self) -> dict[str, Any]:
        """dvc.yaml's stages."""
        return stages_of((self.root / "dvc.yaml").read_text(encoding="utf-8"))

    def outs(self, name: str) -> list[str]:
        """The paths that a stage writes."""
        listed = [out for kind in ("outs", "metrics", "plots") for out in self.stages()[name].get(kind, [])]
        return [out if isinstance(out, str) else next(iter(out)) for out in listed]

    def set(self, file: str = "params.yaml", **values: Any) -> None:
        """Write values into a YAML file: section__key=value."""
        yaml = YAML()
        content = yaml.load(self.root / file)
        for name, value in values.items():
            *sections, key = name.split("__")
            node = content
            for section in sections:
                node = node[section]
            node[key] = value
        yaml.dump(content, self.root / file)

    def locked(self) -> dict[str, Any]:
        """dvc.lock's stages."""
        return stages_of((self.root / "dvc.lock").read_text(encoding="utf-8"))

    def hashes(self, *stages: str) -> dict[str, str]:
        """{file: sha256} of dvc.lock and of every file that the stages (default: all) have written."""
        tops = [self.root / out for name in stages or self.stages() for out in self.outs(name)]
        files = [file for top in tops for file in [top, *top.rglob("*")] if file.is_file()]
        return {
            str(file.relative_to(self.root)): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in [self.root / "dvc.lock", *sorted(files)]
        }

    def checkpoint_always(self) -> None:
        """Have training save as often as it can."""
        code = self.root / "pretune" / "training" / "checkpoint.py"
        text = code.read_text(encoding="utf-8")
        assert "\nEVERY = 60.0" in text
        code.write_text(text.replace("\nEVERY = 60.0", "\nEVERY = 0.0"), encoding="utf-8")

    def client(self) -> tuple[Any, str]:
        """An MLflow client of the clone's own database, once all is sent, and the id of the experiment."""
        import mlflow

        self.wait_for_end()
        client = mlflow.MlflowClient(f"sqlite:///{self.root / 'mlflow.db'}")
        experiments = {e.name: e.experiment_id for e in client.search_experiments()}
        assert set(experiments) <= {"Default", "pretune"}, experiments
        assert not client.search_runs([experiments.get("Default", "0")]), "runs outside the experiment"
        return client, experiments["pretune"]

    def records(self) -> list[Any]:
        """Every MLflow run, the oldest first, deleted ones included."""
        client, experiment = self.client()
        return list(client.search_runs([experiment], run_view_type=3, order_by=["attributes.start_time ASC"]))

    def parents(self) -> list[Any]:
        """The pipeline runs, the oldest first."""
        return [run for run in self.records() if run.data.tags.get("pretune.kind") == "pipeline"]

    def children(self, parent: Any) -> dict[str, Any]:
        """The stage runs under a pipeline run, by stage."""
        runs = [run for run in self.records() if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
        assert len({run.info.run_name for run in runs}) == len(runs), "two runs of one stage under one parent"
        return {run.info.run_name: run for run in runs}

    def processes(self) -> dict[int, str]:
        """{pid: command line} of every process that was started from here and is alive."""
        commands = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                dead = (folder / "stat").read_text().rpartition(")")[2].split()[0] in "ZX"
                if not dead and self.mark.encode() in (folder / "environ").read_bytes():
                    commands[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        return commands

    def process(self, ending: str) -> int | None:
        """The process whose command line ends so, if there is one."""
        return next((pid for pid, command in self.processes().items() if command.endswith(ending)), None)

    def process_with(self, words: str) -> int | None:
        """The oldest process with these words in its command line, if there is one."""
        return min((pid for pid, command in self.processes().items() if words in command), default=None)

    def lock_holder(self, stage: str) -> int | None:
        """The process that runs a stage."""
        try:
            return int(json.loads((self.state / "locks" / f"{stage}.lock").read_text(encoding="utf-8"))["pid"])
        except (OSError, ValueError):
            return None

    def journals(self) -> list[Path]:
        """The records that are not sent to MLflow yet."""
        return sorted((self.state / "journal").glob("*.jsonl"))

    def is_training(self) -> bool:
        """Whether a stage that runs now has recorded a loss."""
        for path in self.journals():
            with contextlib.suppress(FileNotFoundError):  # sent meanwhile
                if '"loss"' in path.read_text(encoding="utf-8"):
                    return True
        return False

    def leftovers(self) -> list[str]:
        """Half-written files that lie about."""
        skipped = {".git", ".dvc"}
        return [str(p) for p in self.root.rglob("*.partial") if not skipped & set(p.relative_to(self.root).parts)]

    def wait(self, condition: Callable[[], Any], name: str, process: subprocess.Popen[str] | None = None) -> Any:
        """Poll until `condition` is true, and return its value. Fails if it takes too long or `process` has ended."""
        deadline = time.monotonic() + TIMEOUT
        while not (value := condition()):
            assert time.monotonic() < deadline, f"waited {TIMEOUT} s for {name}; alive: {self.processes()}"
            assert process is None or process.poll() is None, f"ended before {name}: {process.communicate()[0]}"
            time.sleep(0.02)
        return value

    def wait_for_end(self) -> None:
        """Wait until nothing that was started from here is alive."""
        self.wait(lambda: not self.processes(), "the end of all processes")

    def end_all(self) -> None:
        """Kill what a failed test left running."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _documents(path: Path) -> None:
    draw = random.Random(0)  # noqa: S311 - the same texts everywhere
    with path.open("w", encoding="utf-8") as file:
        for number in range(240):
            label = list(WORDS)[number % 3]
            text = " ".join(draw.choices([*WORDS[label].split(), "the", "of", "a"], k=14)) + f" {number}"
            file.write(json.dumps({"text": text} | ({"label": label} if number % 2 else {})) + "\n")


def make_clone(folder: Path) -> Clone:
    """A clone of the project as it lies in the working tree, made tiny and committed."""
    clone = Clone(folder.resolve() / "clone")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT, check=True, capture_output=True,
    ).stdout  # fmt: skip
    for name in sorted({os.fsdecode(name) for name in listed.split(b"\0") if name}):
        if (PROJECT / name).is_file() and not name.startswith(("tests/", "docs/")):
            (clone.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, clone.root / name)
    _documents(clone.root / "documents.jsonl")
    yaml = YAML()
    graph = yaml.load(clone.root / "dvc.yaml")
    graph["stages"]["ingest"]["deps"].append("documents.jsonl")
    yaml.dump(graph, clone.root / "dvc.yaml")
    clone.set(
        threads=1, ingest__source="documents.jsonl", evaluate__bootstrap_samples=100,
        prepare__vocabulary_size=400, prepare__test_share=0.4, prepare__validation_share=0.1,
        prepare__train_rows=30, prepare__validation_rows=10, prepare__test_rows=40,
        model__config__hidden_size=16, model__config__num_hidden_layers=1, model__config__num_attention_heads=2,
        model__config__intermediate_size=32,
        pretrain__steps=24, pretrain__batch_size=4, pretrain__sequence_length=16, pretrain__precision="fp32",
        pretrain__validation_rows=4, pretrain__evaluate_every=12,
        finetune__epochs=2, finetune__batch_size=4, finetune__sequence_length=16, finetune__precision="fp32",
        finetune__evaluate_every=8,
    )  # fmt: skip
    clone.git("init", "--quiet")
    for key, value in {"user.name": "Test", "user.email": "test@example.org", "core.hooksPath": "/dev/null"}.items():
        clone.git("config", key, value)
    clone.git("add", "--all")
    clone.git("commit", "--quiet", "--message", "start")
    return clone


def copy_clone(source: Clone, folder: Path) -> Clone:
    """A finished clone with its cache and records, in another place: absolute paths are moved with it."""
    clone = Clone(folder.resolve() / "clone")
    unwanted = [source.root / ".dvc" / "tmp", source.root / ".dvc" / "config.local", source.state / "locks"]
    shutil.copytree(
        source.root, clone.root, ignore=lambda at, names: [n for n in names if Path(at) / n in unwanted], symlinks=True
    )
    old, new = str(source.root), str(clone.root)
    places = {"experiments": "artifact_location", "runs": "artifact_uri", "logged_models": "artifact_location"}
    with contextlib.closing(sqlite3.connect(clone.root / "mlflow.db")) as database, database:
        for table, column in places.items():
            change = f"UPDATE {table} SET {column} = replace({column}, ?, ?)"  # noqa: S608 - names from above
            database.execute(change, (old, new))
    return clone


@pytest.fixture(scope="session")
def copy_of() -> Callable[[Clone, Path], Clone]:
    """Copies a finished clone into a folder."""
    return copy_clone


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Clone]:
    """A clone in which nothing has run."""
    clone = make_clone(tmp_path)
    yield clone
    clone.end_all()


@pytest.fixture(scope="session")
def finished(once: Once) -> Clone:
    """A clone after one `pretune run`, which printed console.txt; tests read it or copy it, and leave it as it is."""

    def run(folder: Path) -> None:
        clone = make_clone(folder)
        (folder / "console.txt").write_text(clone.run_pipeline("flow"), encoding="utf-8")
        clone.wait_for_end()

    return Clone(once("finished", run).resolve() / "clone")


@pytest.fixture
def copy(finished: Clone, tmp_path: Path) -> Iterator[Clone]:
    """A finished clone of the test's own."""
    clone = copy_clone(finished, tmp_path)
    yield clone
    clone.end_all()


@pytest.fixture(scope="session")
def undisturbed(finished: Clone, once: Once) -> Clone:
    """A finished clone in which pretraining then took LONG steps, and nothing went wrong."""

    def run(folder: Path) -> None:
        clone = copy_clone(finished, folder)
        clone.set(pretrain__steps=LONG)
        clone.plain_run()
        clone.wait_for_end()

    return Clone(once("undisturbed", run).resolve() / "clone")


@pytest.fixture(scope="session")
def prepared(once: Once) -> Clone:
    """A clone whose `pretrain` comes next, in two processes; AdamW, whose rounding is that of fp32."""

    def run(folder: Path) -> None:
        clone = make_clone(folder)
        clone.set(launch__processes=2, pretrain__optimizer="adamw")
        for stage in ("ingest", "prepare"):
            clone.run("-m", "tasks", stage)
        clone.wait_for_end()

    return Clone(once("prepared", run).resolve() / "clone")


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """PostgreSQL, an S3 store, MLflow, Prefect and a worker, running: one for each of pytest's processes that asks."""
    spec = importlib.util.spec_from_file_location("team_stack", Path(__file__).with_name("team_stack.py"))
    team_stack = importlib.util.module_from_spec(spec)
    sys.modules["team_stack"] = team_stack
    spec.loader.exec_module(team_stack)
    if reason := team_stack.missing():
        pytest.skip(f"no stack on this machine: {reason}")
    with team_stack.running(tmp_path_factory.getbasetemp()) as running:
        yield running


@pytest.fixture(scope="session")
def trained(prepared: Clone, once: Once) -> Clone:
    """The same after LONG steps of `pretrain` in two processes of this machine, and nothing went wrong."""

    def run(folder: Path) -> None:
        clone = copy_clone(prepared, folder)
        clone.set(pretrain__steps=LONG)
        clone.alone("-m", "tasks", "pretrain")
        clone.wait_for_end()

    return Clone(once("trained", run).resolve() / "clone")


@pytest.fixture
def stale(copy: Clone) -> Clone:
    """A finished clone whose next run will pretrain for LONG steps: time enough to interfere."""
    copy.set(pretrain__steps=LONG)
    return copy
