"""The threat model and what it promises."""

from __future__ import annotations

import re

import pytest


@pytest.fixture(scope="module")
def model(root):
    """The page."""
    return (root / "docs/threat-model.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def documents(root):
    """{path: text} of all pages but those that are history."""
    pages = [*root.glob("*.md"), *(root / "docs").rglob("*.md")]
    return {
        p: p.read_text(encoding="utf-8") for p in pages if p.name != "CHANGELOG.md" and p.parent.name != "decisions"
    }


def test_every_threat_names_a_test_that_exists(root, model):
    """The last column of each row; a row without one says that others prove it, and is the exception."""
    rows = [line for line in model.splitlines() if line.startswith("| ") and " could | " not in line]
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", model)
    assert len(named) > 30
    assert sum("tests/" in row for row in rows) >= len(rows) - 4
    missing = [
        (file, test)
        for file, test in named
        if not (root / file).is_file() or f"def {test}(" not in (root / file).read_text(encoding="utf-8")
    ]
    assert missing == []


def test_ray_is_started_without_its_dashboard(documents):
    """It runs any command for whoever reaches it."""
    heads = [line for text in documents.values() for line in text.splitlines() if "ray start --head" in line]
    assert len(heads) > 2
    assert [line for line in heads if "--include-dashboard=false" not in line] == []


def test_no_document_tells_to_open_a_page_that_loads_scripts(documents):
    """DVC's own page does: it is asked for JSON."""
    commands = [c for text in documents.values() for c in re.findall(r"dvc plots (?:show|diff)\b[^`\n]*", text)]
    commands = [command for command in commands if command not in {"dvc plots show", "dvc plots diff"}]
    assert commands
    assert [command for command in commands if "--json" not in command] == []
