"""Which model is meant where none is named, in the graphs that recipes bring."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from cli import graphs
from pretune.config import overrides, params
from pretune.errors import DataError, NotFoundInRecordsError
from pretune.release import predict
from pretune.release.last_model import LastModel, last_model
from pretune.release.runs import Runs

REPO = Path(__file__).parents[3]


def nothing(_, name):
    """What is on record of a model."""
    raise NotFoundInRecordsError(f"no model {name}", "pretune promote")


@pytest.fixture
def make(project):
    """A function that gives the project our dvc.yaml with other graphs, and more for `evaluate` to read."""

    def write(*names, before=()):
        document = YAML().load(REPO / "dvc.yaml")
        graphs.apply(document, REPO, names)
        deps = document["stages"]["evaluate"]["deps"]
        deps[:0] = before
        YAML().dump(document, project / "dvc.yaml")
        return project

    return write


def test_it_is_the_first_model_that_evaluate_compares(make):
    """With its stage, its section of params.yaml and the model that it began as; a checkpoint is not it."""
    assert last_model(make()) == last_model(make("reference")) == LastModel()
    aligned = last_model(make("align"))
    assert aligned == LastModel("align", "models/aligned", "models/finetuned")
    assert (LastModel().section, aligned.section) == ("finetune", "align")
    root = make("align", before=["models/checkpoint"])
    overrides.override(root / "params.yaml", ["model.init=models/checkpoint"], root / "params.yaml")
    assert last_model(root) == aligned
    settings = params.load(root / "params.yaml")
    assert aligned.params(settings) == settings.finetune  # of a stage without a section of its own


def test_a_model_without_a_name_is_the_last_one_while_there_is_no_champion(make, monkeypatch):
    """Not the finetuned one, from which it was made."""
    root = make("align")
    monkeypatch.setattr(Runs, "model", nothing)
    (root / "models/finetuned").mkdir(parents=True)
    (root / "models/finetuned/config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match="no champion, and models/aligned holds no model"):
        predict.folder(None)
    shutil.copytree(root / "models/finetuned", root / "models/aligned")
    assert predict.folder(None) == root / "models/aligned"
