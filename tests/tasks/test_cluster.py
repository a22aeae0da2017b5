"""Stages on a Ray cluster of two nodes, which are two groups of processes on this machine."""

from __future__ import annotations

import gc
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile

import numpy as np
import pytest

from pretune.cluster import connection
from pretune.data import rows, storage, workers
from pretune.data.prepare import shards
from pretune.errors import DataError, WorkspaceError
from tasks.ingest import ingest
from tasks.prepare import prepare

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # Ray drops processes that it has sent a signal
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0"}
CORPUS = "data/prepared/corpus"
TRIES = 3  # Ray gives a node's helpers 15 seconds to start, which they can miss on a busy machine
TEXTS = [f"text {number} is about salt and {'butter ' * (number % 9)}" for number in range(60)]

KILLED = """
import os, signal, sys
from pathlib import Path
from pretune.data import tokenizer
from pretune.data.prepare import shards
shards.SHARD = shards.BATCH = 100
def texts():
    for number in range(60):
        if number == 40:
            os.kill(os.getpid(), signal.SIGKILL)
        yield f"text {number} is about salt and {'butter ' * (number % 9)}"
shards.Shards(Path(sys.argv[1]), tokenizer.load(Path(sys.argv[2]))).write(texts())
"""


@pytest.fixture(scope="module")
def nodes():
    """A local cluster of two nodes."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="ray") as folder:  # a short path: sockets lie in it
        os.environ |= SETTINGS | {"RAY_TMPDIR": folder}
        os.makedirs(os.path.join(folder, "ray"))  # noqa: PTH103, PTH118 - where Ray notes the address for `auto`
        import ray
        from ray.cluster_utils import Cluster

        cluster = Cluster()
        add(cluster, include_dashboard=False)
        add(cluster)
        yield cluster
        ray.shutdown()
        cluster.shutdown()
        gc.collect()  # what Ray drops warns here, not in another test
    os.environ.clear()
    os.environ |= before


def add(cluster, **settings):
    """Add a node, which may take more than one try."""
    for attempt in range(TRIES):
        try:
            return cluster.add_node(**NODE, **settings)
        except Exception:  # Ray has no class for it
            if attempt == TRIES - 1:
                raise
    return None


@pytest.fixture
def cluster(nodes, monkeypatch):
    """The same, named by PRETUNE_CLUSTER."""
    monkeypatch.setenv(connection.CLUSTER, nodes.address)
    return nodes


@pytest.fixture
def settings(params, monkeypatch):
    """Every step on, chunks of a few rows, batches and shards of a few texts."""
    monkeypatch.setattr(workers, "CHUNK", 7)
    monkeypatch.setattr(shards, "BATCH", 300)
    monkeypatch.setattr(shards, "SHARD", 500)
    clean = {"duplicates": "near", "similarity": 0.8, "scrub": ["email"], "quality": ["fineweb"], "max_bad_rows": 9}
    sizes = {"train_rows": 20, "validation_rows": 8, "test_rows": 12, "validation_share": 0.2, "test_share": 0.3}
    leaks = {"similarity": 0.8, "decontaminate": 25, "vocabulary_size": 420}
    ingest_params = params.ingest.model_copy(
        update={"source": "rows.csv", "clean": params.ingest.clean.model_copy(update=clean)}
    )
    return params.model_copy(
        update={"ingest": ingest_params, "prepare": params.prepare.model_copy(update=sizes | leaks)}
    )


WORDS = {
    "sea": [
        "wave",
        "salt",
        "harbour",
        "tide",
        "gull",
        "net",
        "anchor",
        "sail",
        "rope",
        "storm",
        "deck",
        "fog",
        "pier",
        "eel",
        "mast",
        "reef",
    ],
    "kitchen": [
        "flour",
        "butter",
        "oven",
        "spoon",
        "yeast",
        "sugar",
        "pan",
        "lid",
        "whisk",
        "crumb",
        "peel",
        "stove",
        "apron",
        "jar",
        "dough",
        "mint",
    ],
}


def write_rows(folder):
    """Rows of which some are bad, some alike, some share a passage with others, all with an address in them."""
    draw = random.Random(0)  # noqa: S311 - the same rows each time
    lines = [
        f"{label},Number {n} from n{n}@example.org is about {' '.join(draw.choices(words, k=9))}"
        f"{' and the bell of the old chapel' * (n % 9 == 0)}."
        for n in range(60)
        for label, words in WORDS.items()
    ]
    lines[30:30] = [lines[3], lines[8].replace("Number", "A number"), 'sea,"bad \x01 row."', "kitchen,no end of a line"]
    (folder / "rows.csv").write_text("\n".join(["label,text", *lines]) + "\n", encoding="utf-8")


def made(folder):
    """{path: hash} of all outputs."""
    paths = [path for top in ("data", "reports") for path in (folder / top).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@pytest.fixture
def run(settings, words, tmp_path, make_bench):
    """A function that runs both stages in a folder of that name."""

    def run(where, tokenizer, storage=""):
        folder = tmp_path / where
        folder.mkdir()
        write_rows(folder)
        words.save_pretrained(folder / "given")
        prepare_params = settings.prepare.model_copy(update={"tokenizer": tokenizer})
        ingest_params = settings.ingest.model_copy(update={"storage": storage})
        bench = make_bench(folder, settings.model_copy(update={"ingest": ingest_params, "prepare": prepare_params}))
        for stage in (ingest, prepare):
            bench.name = stage.__name__
            stage(bench)
        assert bench.recorded["near"] + bench.recorded["exact"] > 1

    return run


@pytest.mark.parametrize("tokenizer", ["wordpiece", "given"])
def test_a_cluster_makes_the_same_bytes(cluster, run, tmp_path, monkeypatch, tokenizer):
    """Rows, quarantine, duplicates, splits, tokens and card; and SIGTERM stays ours."""
    handler = signal.getsignal(signal.SIGTERM)
    run("cluster", tokenizer)
    monkeypatch.delenv(connection.CLUSTER)
    run("here", tokenizer)
    assert signal.getsignal(signal.SIGTERM) == handler
    assert made(tmp_path / "cluster") == made(tmp_path / "here")
    assert sum("tokens-" in path for path in made(tmp_path / "here")) > 1


def test_rows_and_tokens_go_to_storage_and_are_those_of_this_disk(cluster, run, s3, tmp_path, monkeypatch):
    """In parts, of which this machine holds one or two; the workspace has pointers to them, and all else as ever."""
    monkeypatch.setenv(storage.FOLDER, str(tmp_path / "copies"))
    monkeypatch.setenv(storage.SIZE, "2e-5")
    monkeypatch.setattr(rows, "CHUNK", 16)
    monkeypatch.setattr(rows, "PART", 2000)
    run("cluster", "wordpiece", "s3://bucket/texts")
    monkeypatch.delenv(connection.CLUSTER)
    run("here", "wordpiece")
    stored, here = made(tmp_path / "cluster"), made(tmp_path / "here")
    moved = {path for path in here if path.startswith(("data/raw/rows", "data/prepared/corpus/tokens"))}
    told = {"data/raw/source.json", *(f"reports/data/card.{ending}" for ending in ("json", "md", "html"))}  # the MD5
    pointers = {path for path in stored if path.endswith(".remote")}
    assert stored.keys() - pointers == here.keys() - moved
    assert {path for path in here.keys() - moved if here[path] != stored[path]} <= told
    found = [list(rows.iterate(tmp_path / each / "data/raw/rows.parquet")) for each in ("cluster", "here")]
    assert found[0] == found[1]
    tokens = [
        list(map(_tokens, storage.paths(tmp_path / each / CORPUS, "tokens-*.npy"))) for each in ("cluster", "here")
    ]
    assert tokens[0] == tokens[1]
    assert len(s3.find("bucket/texts")) == len(pointers) > 8
    assert sum(path.stat().st_size for path in (tmp_path / "copies").iterdir()) <= 2e4


def _tokens(path):
    return storage.read(path, np.load).tolist()


def test_a_worker_that_is_killed_changes_nothing(cluster, tmp_path):
    """What it was doing is done again."""
    mark = tmp_path / "killed"

    def work(number):
        if number == 3 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return number * number

    assert list(workers.in_order(work, range(8))) == [number * number for number in range(8)]
    assert mark.exists()


def test_a_node_that_is_lost_changes_nothing(cluster):
    """What it was doing, and what it had done and kept, is done again."""
    third = add(cluster)

    def chunks():
        for number in range(12):
            if number == 6:
                cluster.remove_node(third, allow_graceful=False)
            yield number

    found = list(workers.in_order(lambda number: np.full(50_000, number), chunks()))
    assert [int(each[0]) for each in found] == list(range(12))
    assert {len(each) for each in found} == {50_000}


def test_killed_on_a_cluster_it_goes_on_to_the_same_bytes(cluster, words, tmp_path, monkeypatch):
    """After the last finished shard, and with or without the cluster."""
    words.save_pretrained(tmp_path / "words")
    command = [sys.executable, "-c", KILLED, str(tmp_path / "stopped"), str(tmp_path / "words")]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "stopped").glob("ends-*.npy")}
    assert finished
    monkeypatch.setattr(shards, "SHARD", 100)
    monkeypatch.setattr(shards, "BATCH", 100)
    shards.Shards(tmp_path / "stopped", words).write(TEXTS)
    monkeypatch.delenv(connection.CLUSTER)
    shards.Shards(tmp_path / "whole", words).write(TEXTS)
    contents = [{p.name: p.read_bytes() for p in (tmp_path / each).iterdir()} for each in ("stopped", "whole")]
    assert contents[0] == contents[1]
    assert {path: path.stat().st_mtime_ns for path in finished} == finished


def test_a_mistake_that_a_worker_finds_is_told_as_one(cluster):
    """The same class, problems and next command as here; no traceback of Ray's."""

    def work(number):
        raise DataError([f"row {number} is bad", "so is another"], "fix them")

    with pytest.raises(DataError) as caught:
        list(workers.in_order(work, range(3)))
    assert caught.value.problems == ["row 0 is bad", "so is another"]
    assert caught.value.next_step == "fix them"


def test_a_machine_with_other_code_is_refused(cluster, monkeypatch):
    """Its bytes could be others."""
    monkeypatch.setattr(workers, "_environment", lambda: "Python 2.7")
    with pytest.raises(WorkspaceError, match=r"here there is Python 2\.7") as caught:
        list(workers.in_order(len, ["ab"]))
    assert "make setup" in caught.value.next_step
