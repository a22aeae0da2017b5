"""Stage functions are plain functions: called here with a stand-in for Stage, as a notebook would."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pretune.data import documents, tokenizer
from pretune.errors import DataError
from tasks.evaluate import evaluate
from tasks.finetune import finetune
from tasks.ingest import ingest
from tasks.prepare import prepare
from tasks.pretrain import pretrain
from tasks.scratch import scratch


class Bench:
    """What a stage function uses of Stage, in one folder: outputs are written in place."""

    def __init__(self, folder, params):
        self.folder, self.params, self.name = folder, params, ""
        self.run, self.recorded, self.models = self, {}, []

    def dep(self, path):
        return self.folder / path

    def out(self, path):
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        return self.folder / path

    def metrics(self, values, step=0):
        self.recorded |= values

    def model(self, path, examples):
        self.models.append((path, examples))

    def reporter(self, steps):
        return lambda record: None


@pytest.fixture
def bench(tmp_path, params):
    """A bench with the smallest settings, and sixty labelled rows in rows.csv."""
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    small = {"batch_size": 8, "sequence_length": 16, "precision": "fp32"}
    settings = params.model_copy(
        update={
            "threads": 1,
            "ingest": params.ingest.model_copy(update={"source": "rows.csv"}),
            "prepare": params.prepare.model_copy(update={"vocabulary_size": 320, "train_rows": 30, "test_rows": 20}),
            "model": params.model.model_copy(update=shape),
            "pretrain": params.pretrain.model_copy(update=small | {"steps": 12}),
            "finetune": params.finetune.model_copy(update=small | {"epochs": 6, "learning_rate": 3e-3}),
            "evaluate": params.evaluate.model_copy(update={"resamples": 100}),
        }
    )
    kinds = {"sea": "waves salt harbour tide", "kitchen": "flour oven butter spoon"}
    rows = [f"{label},{n} is about {text}" for n in range(30) for label, text in kinds.items()]
    (tmp_path / "rows.csv").write_text("\n".join(["label,text", *rows, rows[0]]) + "\n", encoding="utf-8")
    return Bench(tmp_path, settings)


def do(bench, *functions):
    """Run stage functions one after another."""
    for function in functions:
        bench.name = function.__name__
        function(bench)


def test_ingest_takes_a_snapshot_of_a_users_table(bench):
    """Distinct rows and where they came from; the counts are recorded."""
    do(bench, ingest)
    found = documents.read(bench.folder / "data/raw/documents.jsonl")
    assert len(found) == 60
    assert found[0].origin == "rows.csv:2"
    assert (bench.folder / "data/raw/source.txt").read_text(encoding="utf-8") == "rows.csv\n"
    assert (bench.recorded["documents"], bench.recorded["labelled"]) == (60, 60)


def test_ingest_of_an_empty_table_is_an_error(bench):
    """A header alone holds nothing to learn from."""
    (bench.folder / "rows.csv").write_text("label,text\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"rows\.csv holds no documents"):
        do(bench, ingest)


def test_prepare_keeps_every_token_and_splits_the_labelled_rows(bench):
    """The corpus decodes to the documents, in order; train and test have the sizes asked for."""
    do(bench, ingest, prepare)
    folder = bench.folder / "data/prepared"
    words = tokenizer.load(folder / "tokenizer")
    tokens, ends = (np.load(folder / "corpus" / name) for name in ("tokens.npy", "ends.npy"))
    texts = [d.text for d in documents.read(bench.folder / "data/raw/documents.jsonl")]
    assert words.batch_decode(np.split(tokens, ends[:-1]), skip_special_tokens=True) == texts
    train, test = (documents.read(folder / "labelled" / f"{part}.jsonl") for part in ("train", "test"))
    assert (len(train), len(test)) == (30, 20)
    assert json.loads((folder / "labelled" / "labels.json").read_text(encoding="utf-8")) == ["kitchen", "sea"]


@pytest.mark.slow
def test_the_stages_lead_to_a_result_that_says_who_is_better(bench):
    """From the table to reports/metrics.json: easy kinds are learnt, every model has its interval."""
    do(bench, ingest, prepare, pretrain, finetune, scratch, evaluate)
    result = json.loads((bench.folder / "reports/metrics.json").read_text(encoding="utf-8"))
    assert (result["test_rows"], result["train_rows"]) == (20, 30)
    assert result["finetuned"]["accuracy"]["value"] > 0.9
    for name in ("finetuned", "scratch", "majority"):
        accuracy = result[name]["accuracy"]
        assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]
    rows = (bench.folder / "reports/predictions.csv").read_text(encoding="utf-8").splitlines()
    assert rows[0] == "label,finetuned,scratch,majority"
    assert len(rows) == 21
    assert [path for path, _ in bench.models] == ["models/pretrained", "models/finetuned", "models/scratch"]


@pytest.mark.slow
def test_the_stages_write_the_same_bytes_twice(bench, tmp_path_factory):
    """Outputs are a function of the inputs: no times, no paths."""
    again = Bench(tmp_path_factory.mktemp("again"), bench.params)
    (again.folder / "rows.csv").write_bytes((bench.folder / "rows.csv").read_bytes())
    for each in (bench, again):
        do(each, ingest, prepare, pretrain, finetune, scratch, evaluate)
    written = [contents(each.folder) for each in (bench, again)]
    assert written[0].keys() == written[1].keys()
    assert [name for name in written[0] if written[0][name] != written[1][name]] == []
    assert not [name for name, content in written[0].items() if str(bench.folder).encode() in content]


def contents(folder: Path):
    """{path: content} of every file."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
