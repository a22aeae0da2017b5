"""The threat model and what it promises."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

SPEC = importlib.util.spec_from_file_location("packages", Path(__file__).parents[2] / "scripts" / "packages.py")
packages = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(packages)


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


SAFE = {"name": "safe", "version": "1", "vulns": []}
WEAK = {"name": "weak", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"]}]}
UNKNOWN = {"name": "unknown", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("found", "code", "words"),
    [
        ([SAFE], 0, ["1 packages audited, 0 known vulnerabilities"]),
        ([SAFE, WEAK], 1, ["2 packages audited", "weak 2: PYSEC-1, fixed in 3"]),
        ([SAFE, UNKNOWN], 0, ["1 packages audited", "not audited: unknown"]),
        ([UNKNOWN], 0, ["NOT AUDITED"]),
        (None, 0, ["NOT AUDITED"]),
    ],
)
def test_an_audit_that_did_not_happen_says_so(found, code, words):
    """pip-audit itself says that no vulnerability was found where it could ask for none."""
    result, lines = packages.verdict(found and {"dependencies": found})
    assert result == code
    assert all(any(word in line for line in lines) for word in words)


def test_the_licences_are_those_of_the_lock():
    """Each package of requirements.lock has one; `make licences` brings the page up to date."""
    listed = packages.listed()
    assert sorted(set(listed) - {"package"}) == packages.locked()
    assert all(licence.strip() for licence in listed.values())
