from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import pytest

from pretune.data import rows
from pretune.data.ingest import pydocs

pytestmark = pytest.mark.slow

COLLECT = """
import pathlib, sys
from pretune.data import rows
from pretune.data.ingest import pydocs
rows.write(pathlib.Path(sys.argv[1]), pydocs.collect())
"""


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    """The files of two processes with different string hashes."""
    folder = tmp_path_factory.mktemp("pydocs")
    paths = [folder / f"{seed}.parquet" for seed in (1, 2)]
    processes = [
        subprocess.Popen([sys.executable, "-c", COLLECT, path], env=os.environ | {"PYTHONHASHSEED": str(seed)})
        for seed, path in enumerate(paths, start=1)
    ]
    assert [process.wait() for process in processes] == [0, 0]
    return paths


def test_two_processes_collect_the_same_bytes(collected):
    """The snapshot depends on the interpreter, and not on the process."""
    first, second = (hashlib.sha256(path.read_bytes()).hexdigest() for path in collected)
    assert first == second


def test_there_are_about_twelve_thousand_distinct_texts(collected):
    """Enough for pretraining, each once, none very short."""
    texts = [row["text"] for row in rows.read(collected[0])]
    assert 9_000 < len(texts) < 16_000
    assert len(set(texts)) == len(texts)
    assert min(map(len, texts)) >= pydocs.MIN_CHARACTERS


def test_every_area_occurs_and_labels_follow_the_module(collected):
    """All six areas occur; a label is the area of its module, and the language reference has none."""
    collected_rows = rows.read(collected[0])
    assert {row.get("label") for row in collected_rows} == {*pydocs.AREAS, None}
    assert sum("label" in row for row in collected_rows) > 4_000
    for row in collected_rows:
        module = row["origin"].split(".")[0]
        assert row.get("label") == pydocs.area_of(module), row["origin"]
    assert all("label" not in row for row in collected_rows if row["origin"].startswith("topics:"))


@pytest.mark.parametrize(
    ("module", "area"),
    [("socket", "internet"), ("_socket", "internet"), ("_thread", "concurrency"), ("tkinter", "gui"), ("this", None)],
)
def test_a_compiled_module_has_the_area_of_its_public_one(module, area):
    """`_socket` has that of `socket`; a module of no area has no label."""
    assert pydocs.area_of(module) == area


def test_no_module_is_in_two_areas():
    """The areas are disjoint."""
    modules = [name for names in pydocs.AREAS.values() for name in names.split()]
    assert len(set(modules)) == len(modules)
