from __future__ import annotations

import pytest

from flows import naming
from pretune.lineage.plan import Decision


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("pydocs", "pydocs"),
        ("data/reviews.csv", "reviews"),
        ("data/sets/ag_news/train.csv.gz", "ag_news"),
        ("data/photos/", "photos"),
        (["data/a.csv", "data/b.csv"], "a"),
        ({"train": "data/imdb/train.jsonl", "test": "data/imdb/test.jsonl"}, "imdb"),
        ({"text": "data/europarl.en", "target": "data/europarl.de"}, "europarl"),
        ("data/wiki/*.txt", "wiki"),
        ("https://example.org/sets/iris.csv?key=1", "iris"),
        ("sqlite:///data/shop.db#orders", "shop"),
        ({"type": "hub", "name": "stanfordnlp/sst2", "revision": "0" * 40}, "sst2"),
    ],
)
def test_a_data_set_has_a_short_name(source, name):
    """Of a file or the folder that says more; of several the first."""
    assert naming.data_name(source) == name


@pytest.mark.parametrize(
    ("init", "name"), [(None, "modernbert"), ("checkpoints/tiny", "tiny"), ("org/bert-base@" + "0" * 40, "bert-base")]
)
def test_a_model_is_called_by_its_checkpoint_or_type(params, init, name):
    """The checkpoint says more than the type."""
    model = params.model.model_copy(update={"init": init, "type": "modernbert"})
    assert naming.model_name(params.model_copy(update={"model": model})) == name


def test_what_changed_comes_first(params):
    """Lists show the beginning of a name; of many changes the first are named and the others counted."""
    subject = naming.run_name(params, [])
    assert naming.run_name(params, ["seed=1"]) == f"seed=1 · {subject}"
    many = [f"k{number}=1" for number in range(7)]
    assert naming.run_name(params, many) == f"k0=1 k1=1 k2=1 k3=1 and 3 more · {subject}"


@pytest.mark.parametrize(
    ("value", "text"),
    [(3e-4, "3e-4"), (0.5, "0.5"), (1.0, "1.0"), (12, "12"), (True, "True"), ("adamw", "adamw"), ([0.1], "[0.1]")],
)
def test_a_change_is_written_as_one_would_type_it(value, text):
    """The shorter form of a number."""
    assert naming.changed_params({"a.b": None, "c": 1}, {"a.b": value, "c": 1}) == [f"a.b={text}"]


def test_code_and_data_are_changes_too():
    """Where no setting differs: what stages run because of; outputs that are missing are no change."""
    plan = [
        Decision("ingest", "run", ["data/mine.csv: modified"]),
        Decision("pretrain", "run", ["pretune/training/loop.py: modified", "params seed: modified"]),
        Decision("evaluate", "run", ["after pretrain", "reports/metrics.json: missing"]),
    ]
    made = {"reports/metrics.json", "data/raw"}
    assert naming.changed_inputs(plan, made) == ["code", "data"]
    assert naming.changed_inputs([Decision("evaluate", "run", ["never run here"])], made) == []


def test_the_last_params_are_remembered(tmp_path):
    """For the name of the next run."""
    assert naming.last_params(tmp_path) == {}
    naming.remember_params(tmp_path, {"seed": 1, "model.init": None})
    assert naming.last_params(tmp_path) == {"seed": 1, "model.init": None}
