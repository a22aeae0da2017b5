from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import pytest

from pretune.data import documents, pydocs

pytestmark = pytest.mark.slow

COLLECT = """
import pathlib, sys
from pretune.data import documents, pydocs
documents.write(pathlib.Path(sys.argv[1]), pydocs.collect())
"""


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    """The files that two new processes write whose string hashes differ."""
    folder = tmp_path_factory.mktemp("pydocs")
    paths = [folder / f"{seed}.jsonl" for seed in (1, 2)]
    processes = [
        subprocess.Popen([sys.executable, "-c", COLLECT, path], env=os.environ | {"PYTHONHASHSEED": str(seed)})
        for seed, path in enumerate(paths, start=1)
    ]
    assert [process.wait() for process in processes] == [0, 0]
    return paths


def test_two_processes_collect_the_same_bytes(collected):
    """The snapshot depends on the interpreter alone, not on the process."""
    first, second = (hashlib.sha256(path.read_bytes()).hexdigest() for path in collected)
    assert first == second


def test_there_are_about_twelve_thousand_distinct_texts(collected):
    """Enough to pretrain on, none twice, none very short."""
    texts = [d.text for d in documents.read(collected[0])]
    assert 9_000 < len(texts) < 16_000
    assert len(set(texts)) == len(texts)
    assert min(map(len, texts)) >= pydocs.MIN_CHARACTERS


def test_every_area_is_there_and_labels_follow_the_module(collected):
    """All six areas occur; a label is its module's area, and the language reference has none."""
    rows = documents.read(collected[0])
    assert {d.label for d in rows} == {*pydocs.AREAS, None}
    assert sum(d.label is not None for d in rows) > 4_000
    for document in rows:
        module = document.origin.split(".")[0]
        assert document.label == pydocs.area_of(module), document.origin
    assert all(d.label is None for d in rows if d.origin.startswith("topics:"))


@pytest.mark.parametrize(
    ("module", "area"),
    [("socket", "internet"), ("_socket", "internet"), ("_thread", "concurrency"), ("tkinter", "gui"), ("this", None)],
)
def test_a_compiled_module_belongs_where_its_public_one_does(module, area):
    """`_socket` is labelled as `socket` is; a module of no area has no label."""
    assert pydocs.area_of(module) == area


def test_no_module_is_in_two_areas():
    """The areas are disjoint."""
    modules = [name for names in pydocs.AREAS.values() for name in names.split()]
    assert len(set(modules)) == len(modules)
