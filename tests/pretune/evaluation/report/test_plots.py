"""`dvc plots` on the tables of an evaluation: the definitions in dvc.yaml, in a project that has only them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import pytest
from ruamel.yaml import YAML

from pretune.config.files import as_csv
from pretune.evaluation.report import curves

pytestmark = pytest.mark.slow  # starts dvc
PLOTS = {  # of each form: the table and the columns on x and y
    "classes": {
        "confusion": ("confusion", "predicted", "label"),
        "ROC": ("roc", "false_positives", "true_positives"),
        "precision and recall": ("precision_recall", "recall", "precision"),
        "reliability": ("reliability", "confidence", "accuracy"),
    },
    "many_labels": {
        "ROC": ("roc", "false_positives", "true_positives"),
        "precision and recall": ("precision_recall", "recall", "precision"),
    },
    "numbers": {"predicted and true": ("scatter", "target", "predicted")},
    "texts": {},
}


def plots(folder, *arguments):
    """What `dvc plots … --json` prints, without an error: {plot: its specification} of those with data."""
    command = [sys.executable, "-m", "dvc", "plots", *arguments, "--json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    assert "errors" not in answer
    assert "failed" not in done.stderr
    return {name: drawn[0]["content"] for name, drawn in answer["data"].items() if drawn}


def write(folder, predictions):
    """Write the tables as `evaluate` does."""
    for name, table in {**dict.fromkeys(curves.TABLES, ()), **curves.tables(predictions)}.items():
        (folder / "reports" / "evaluation" / f"{name}.csv").write_text(as_csv(table), encoding="utf-8")


@pytest.fixture
def project(tmp_path, root):
    """A function that makes a project with our plots, and the tables of these predictions committed."""

    def make(predictions):
        folder = tmp_path / "project"
        (folder / "reports" / "evaluation").mkdir(parents=True)
        write(folder, predictions)
        graph = YAML(typ="safe", pure=True).load(root / "dvc.yaml")
        YAML().dump({"plots": graph["plots"]}, folder / "dvc.yaml")
        shutil.copytree(root / ".dvc" / "plots", folder / ".dvc" / "plots")
        (folder / ".dvc" / "config").write_text("[core]\n    analytics = false\n", encoding="utf-8")
        for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "start"]):
            subprocess.run(["git", *command], cwd=folder, check=True)
        return folder

    return make


@pytest.mark.parametrize("form", PLOTS)
def test_dvc_draws_the_plots_that_a_form_has(forms, project, form):
    """`dvc plots show`: each with all rows of its table on the right axes, and no error about missing plots."""
    predictions = forms[form]()
    drawn = plots(project(predictions), "show")
    assert set(drawn) == set(PLOTS[form])
    for name, (table, x, y) in PLOTS[form].items():
        values = drawn[name]["data"]["values"]
        assert [(row[x], row[y]) for row in values] == [
            (str(row[x]), str(row[y])) for row in curves.tables(predictions)[table]
        ]
        assert {f'"field": "{x}"', f'"field": "{y}"'} <= set(re.findall('"field": "[^"]*"', json.dumps(drawn[name])))


def test_dvc_draws_two_results_side_by_side(forms, project):
    """`dvc plots diff`: the points of both revisions; a curve for each class of each."""
    folder = project(forms["classes"]())
    write(folder, forms["classes"](skill=3.0))
    drawn = plots(folder, "diff", "HEAD")
    assert set(drawn) == set(PLOTS["classes"])
    for spec in drawn.values():
        assert {row["rev"] for row in spec["data"]["values"]} == {"HEAD", "workspace"}
    for name in ("ROC", "precision and recall"):
        encoding = drawn[name]["encoding"]
        assert (encoding["color"]["field"], encoding["strokeDash"]["field"]) == ("label", "rev")
        assert {row["label"] for row in drawn[name]["data"]["values"]} == {"kitchen", "land", "sea"}
