from __future__ import annotations

import json
import subprocess
import sys

import pytest

from cli import data
from pretune.data import rows
from pretune.errors import DataError


def snapshot(folder, labels):
    """A snapshot whose rows have these labels."""
    folder.mkdir(parents=True, exist_ok=True)
    rows.write(folder / "rows.parquet", [{"text": text, "label": label} for text, label in labels.items()])


@pytest.mark.slow
def test_two_versions_are_compared_by_commit_folder_or_workspace(project, capsys):
    """A commit's rows come from DVC's cache."""
    snapshot(project / "data" / "raw", {"a": "x", "b": "x"})
    for command in (["-m", "dvc", "add", "--quiet", "data/raw"],):
        subprocess.run([sys.executable, *command], cwd=project, check=True)
    for command in (["add", "--all"], ["commit", "--quiet", "--message", "data"]):
        subprocess.run(["git", *command], cwd=project, check=True)
    snapshot(project / "data" / "raw", {"b": "y", "c": "x", "d": "x"})
    data.diff("HEAD", ".", as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found == {"rows": [2, 3], "added": 2, "removed": 1, "relabelled": {"x → y": 1}}
    data.diff(str(project), "data/raw", as_json=False)
    assert "added       0" in capsys.readouterr().out
    with pytest.raises(DataError, match="neither a folder"):
        data.diff("nowhere", ".", as_json=True)


def test_the_card_is_shown_and_its_absence_is_told(project, capsys):
    """As text or as JSON; without one the message says what makes it."""
    with pytest.raises(DataError) as caught:
        data.show()
    assert caught.value.next_step == "pretune run prepare"
    (project / "reports" / "data").mkdir(parents=True)
    (project / "reports" / "data" / "card.md").write_text("# Data card: x\n", encoding="utf-8")
    (project / "reports" / "data" / "card.json").write_text('{"source": "x"}', encoding="utf-8")
    data.show()
    assert "Data card: x" in capsys.readouterr().out
    data.show(as_json=True)
    assert json.loads(capsys.readouterr().out) == {"source": "x"}
