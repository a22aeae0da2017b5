"""Stage functions are plain functions: called here with a stand-in for Stage, as a notebook would."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pretune.config import files
from pretune.data import rows, tokenizer
from pretune.errors import DataError
from pretune.objectives import predictions_io
from tasks.evaluate import evaluate
from tasks.finetune import finetune
from tasks.ingest import ingest
from tasks.label_efficiency import label_efficiency
from tasks.label_efficiency import prepare as prepare_label_efficiency
from tasks.prepare import prepare
from tasks.pretrain import prepare as prepare_pretrain
from tasks.pretrain import pretrain
from tasks.scratch import prepare as prepare_scratch
from tasks.scratch import scratch


@pytest.fixture
def bench(tmp_path, params, make_bench):
    """A bench with the smallest settings, and sixty labelled rows in rows.csv."""
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    small = {"batch_size": 8, "sequence_length": 16, "precision": "fp32", "evaluate_every": 5}
    settings = params.model_copy(
        update={
            "threads": 1,
            "ingest": params.ingest.model_copy(
                update={"source": "rows.csv", "clean": params.ingest.clean.model_copy(update={"duplicates": "exact"})}
            ),
            "prepare": params.prepare.model_copy(
                update={
                    "vocabulary_size": 320,
                    "train_rows": 30,
                    "validation_rows": 8,
                    "test_rows": 16,
                    "validation_share": 0.2,
                    "test_share": 0.3,
                    "similarity": 1.0,
                    "decontaminate": 0,
                }
            ),
            "model": params.model.model_copy(update={"config": params.model.config | shape}),
            "pretrain": params.pretrain.model_copy(update=small | {"steps": 12, "validation_rows": 4}),
            "finetune": params.finetune.model_copy(update=small | {"epochs": 6, "learning_rate": 3e-3}),
            "evaluate": params.evaluate.model_copy(update={"bootstrap_samples": 100}),
        }
    )
    kinds = {"sea": "waves salt harbour tide", "kitchen": "flour oven butter spoon"}
    rows = [f"{label},{n} is about {text}" for n in range(30) for label, text in kinds.items()]
    (tmp_path / "rows.csv").write_text("\n".join(["label,text", *rows, rows[0]]) + "\n", encoding="utf-8")
    return make_bench(tmp_path, settings)


def do(bench, *functions):
    """Run stage functions one after another."""
    for function in functions:
        bench.name = function.__name__
        function(bench)


def test_ingest_takes_a_snapshot_of_a_users_table(bench):
    """Distinct rows and where they came from; the counts are recorded."""
    do(bench, ingest)
    found = rows.read(bench.folder / "data/raw/rows.parquet")
    assert len(found) == 60
    assert found[0]["origin"] == "rows.csv:2"
    about = json.loads((bench.folder / "data/raw/source.json").read_text(encoding="utf-8"))
    assert about["source"] == "rows.csv"
    assert (bench.recorded["rows"], bench.recorded["labelled"]) == (60, 60)


def test_ingest_of_an_empty_table_is_an_error(bench):
    """A header alone holds nothing to learn from."""
    (bench.folder / "rows.csv").write_text("label,text\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"rows\.csv holds no rows"):
        do(bench, ingest)


def test_ingest_warns_of_bad_rows_and_knows_the_licence_of_a_built_in_set_alone(bench):
    """What is left out is told; a licence that nobody named is unknown."""
    table = (bench.folder / "rows.csv").read_text(encoding="utf-8")
    (bench.folder / "rows.csv").write_text(table.replace("2 is about waves", "2 is\7 waves", 1), encoding="utf-8")
    clean = bench.params.ingest.clean.model_copy(update={"max_bad_rows": 0.05})
    update = {"ingest": bench.params.ingest.model_copy(update={"clean": clean, "licence": ""})}
    bench.params = bench.params.model_copy(update=update)
    do(bench, ingest)
    assert bench.warnings == [
        "1 of 61 rows are bad and left out: 1 x text: a control character, as U+0007 (rows.csv:6)"
    ]
    assert json.loads((bench.folder / "data/raw/source.json").read_text(encoding="utf-8"))["licence"] == "unknown"


def test_prepare_keeps_every_token_and_splits_the_labelled_rows(bench):
    """The corpus decodes to the texts that are not held out, in order; parts have their sizes and share no row."""
    do(bench, ingest, prepare)
    folder = bench.folder / "data/prepared"
    words = tokenizer.load(folder / "tokenizer")
    tokens, ends = (np.load(folder / "corpus" / f"{name}-00000.npy") for name in ("tokens", "ends"))
    parts = [rows.read(folder / "labelled" / f"{part}.parquet") for part in ("train", "validation", "test")]
    held_out = {row["text"] for part in parts[1:] for row in part}
    texts = [row["text"] for row in rows.read(bench.folder / "data/raw/rows.parquet") if row["text"] not in held_out]
    assert words.batch_decode(np.split(tokens, ends[:-1]), skip_special_tokens=True) == texts
    assert [len(part) for part in parts] == [30, 8, 16]
    assert len({row["text"] for part in parts for row in part}) == 54
    assert {name: bench.recorded[name] for name in ("train_rows", "validation_rows", "test_rows")} == {
        "train_rows": 30, "validation_rows": 8, "test_rows": 16,
    }  # fmt: skip
    assert json.loads((folder / "labelled" / "labels.json").read_text(encoding="utf-8")) == ["kitchen", "sea"]


@pytest.mark.slow
def test_the_stages_lead_to_a_result_that_says_who_is_better(bench):
    """From the table to reports/metrics.json: easy kinds are learnt, every model has its interval."""
    do(bench, ingest, prepare, pretrain, finetune, scratch, label_efficiency, evaluate)
    result = json.loads((bench.folder / "reports/metrics.json").read_text(encoding="utf-8"))
    assert (result["test_rows"], result["train_rows"]) == (16, 30)
    assert result["finetuned"]["accuracy"]["value"] > 0.9
    for name in ("finetuned", "scratch", "majority", "tfidf"):
        accuracy = result[name]["accuracy"]
        assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]
    assert set(result["gain"]) == {"scratch", "majority", "tfidf"}
    said = predictions_io.loads((bench.folder / "reports/evaluation/predictions.json").read_text(encoding="utf-8"))
    assert len(said.rows) == len(set(said.rows)) == 16
    right = (said.models["finetuned"].probabilities.argmax(axis=1) == said.models["finetuned"].targets).mean()
    assert right == pytest.approx(result["finetuned"]["accuracy"]["value"])
    written = {path.name: path.read_text(encoding="utf-8") for path in (bench.folder / "reports/evaluation").iterdir()}
    assert {"confusion.csv", "roc.csv", "precision_recall.csv", "reliability.csv", "slices.csv"} < set(written)
    assert {name.removeprefix("evaluation/"): text for name, text in bench.texts.items() if "/" in name} == written
    report = (bench.folder / "reports/report.html").read_text(encoding="utf-8")
    assert bench.texts["report.html"] == report
    shutil.rmtree(bench.folder / "reports/evaluation")
    bench.known = {"pretrain": {"seconds": 71.0, "energy_kwh": 0.0123}, "scratch": {"seconds": 11.0}}
    do(bench, evaluate)
    assert (bench.folder / "reports/report.html").read_text(encoding="utf-8") == report
    assert bench.texts["report.html"].count("0.0123") == 1
    assert 0 < bench.recorded["latency_p50"] <= bench.recorded["latency_p99"]
    assert bench.recorded["model_megabytes"] > 0
    assert [path for path, _ in bench.models] == ["models/pretrained", "models/finetuned", "models/scratch"]
    for name, validated in (
        ("pretrain", ["loss"]),
        ("finetune", ["loss", "accuracy"]),
        ("scratch", ["loss", "accuracy"]),
    ):
        head, *rows = (bench.folder / "reports/curves" / f"{name}.csv").read_text(encoding="utf-8").splitlines()
        assert head.split(",") == [
            "step",
            "loss",
            "learning_rate",
            "flops",
            *[f"validation_{metric}" for metric in validated],
        ]
        assert [int(row.split(",")[0]) for row in rows] == sorted({int(row.split(",")[0]) for row in rows})


def test_rows_for_validation_do_not_train(bench):
    """Neither sequences of pretraining nor labelled rows are in both parts; the test rows are in none."""
    do(bench, ingest, prepare)
    job = prepare_pretrain(bench)
    rows = len(job.objective) + len(job.validation)
    assert len(job.validation) == 4
    shown = [part.corpus.rows(np.arange(len(part)))[0].reshape(-1, 16) for part in (job.objective, job.validation)]
    assert len(np.unique(np.concatenate(shown), axis=0)) == rows
    job = prepare_scratch(bench)
    assert (len(job.objective), len(job.validation)) == (30, 8)
    tokens = [tuple(text) for part in (job.objective, job.validation) for text in part.texts]
    assert len(set(tokens)) == 38


def test_without_validation_all_rows_train(bench):
    """Nothing is kept out where nothing is watched."""
    sections = {name: getattr(bench.params, name) for name in ("prepare", "pretrain", "finetune")}
    changes = {"prepare": {"validation_rows": 0}, "pretrain": {"validation_rows": 0, "evaluate_every": 0},
               "finetune": {"evaluate_every": 0}}  # fmt: skip
    bench.params = bench.params.model_copy(
        update={name: section.model_copy(update=changes[name]) for name, section in sections.items()}
    )
    do(bench, ingest, prepare)
    assert prepare_pretrain(bench).validation is None
    assert prepare_scratch(bench).validation is None


def test_the_parts_of_a_mixture_are_trained_by_their_weights_and_validated_each(bench):
    """Rows carry the name of their part from the source to the split; the record has shares and losses of the parts.

    A part of texts for pretraining only is no part of finetuning.
    """
    head, *lines = (bench.folder / "rows.csv").read_text(encoding="utf-8").splitlines()
    (bench.folder / "few.csv").write_text("\n".join([head, *lines[:20]]) + "\n", encoding="utf-8")
    (bench.folder / "many.csv").write_text("\n".join([head, *lines[20:60]]) + "\n", encoding="utf-8")
    replayed = [f'"words that were known before: waves and salt, {number} times"\n' for number in range(20)]
    (bench.folder / "replay.csv").write_text("text\n" + "".join(replayed), encoding="utf-8")
    source = {"few": {"path": "few.csv", "weight": 3}, "many": {"path": "many.csv", "weight": 1},
              "replay": {"path": {"corpus": "replay.csv"}, "weight": 1}}  # fmt: skip
    changes = {"ingest": {"source": source}, "finetune": {"epochs": 1}}
    bench.params = bench.params.model_copy(
        update={name: getattr(bench.params, name).model_copy(update=change) for name, change in changes.items()}
    )
    do(bench, ingest, prepare)
    files_of = {(row["part"], row["origin"].partition(":")[0]) for split in ("train", "validation", "test")
                for row in rows.read(bench.folder / f"data/prepared/labelled/{split}.parquet")}  # fmt: skip
    assert files_of == {("few", "few.csv"), ("many", "many.csv")}
    job = prepare_scratch(bench)
    assert (job.mixture.draws(), sum(job.mixture.sizes.values())) == ({"few": 23, "many": 7}, 30)
    do(bench, scratch)
    assert (bench.recorded["share_few"], bench.recorded["share_many"]) == (23 / 30, 7 / 30)
    job = prepare_pretrain(bench)
    assert job.mixture.weights == {"few": 3, "many": 1, "replay": 1}
    assert sum(job.mixture.sizes.values()) == len(job.objective)
    assert job.mixture.draws()["few"] > 2 * job.mixture.draws()["replay"] > 0
    assert sum(map(len, job.validation_parts.values())) == 4
    words = {part: bench_words(bench, job.objective.corpus, rows) for part, rows in part_rows(job.mixture).items()}
    texts = {part: (bench.folder / f"{part}.csv").read_text(encoding="utf-8") for part in words}
    assert all(found and all(text in texts[part] for text in found) for part, found in words.items())
    curve = (bench.folder / "reports/curves/scratch.csv").read_text(encoding="utf-8").splitlines()
    assert curve[0].endswith("validation_loss_few,validation_loss_many")
    assert "| few | 20 |" in bench.texts["data-card.md"]


def test_parts_of_a_mixture_without_weights_are_drawn_by_their_sizes_and_a_temperature(bench):
    """At 2 by the square roots: of training rows in finetuning, of documents in pretraining."""
    head, *lines = (bench.folder / "rows.csv").read_text(encoding="utf-8").splitlines()
    for name, kept in {"few": lines[:12], "many": lines[12:60]}.items():
        (bench.folder / f"{name}.csv").write_text("\n".join([head, *kept]) + "\n", encoding="utf-8")
    (bench.folder / "replay.csv").write_text("text\n" + "".join(f"salt {number}\n" for number in range(25)), "utf-8")
    source = {"few": {"path": "few.csv"}, "many": {"path": "many.csv"},
              "replay": {"path": {"corpus": "replay.csv"}}, "temperature": 2}  # fmt: skip
    ingested = bench.params.ingest.model_copy(update={"source": source})
    bench.params = bench.params.model_copy(update={"ingest": ingested})
    do(bench, ingest, prepare)
    train = Counter(row["part"] for row in rows.read(bench.folder / "data/prepared/labelled/train.parquet"))
    mixture = prepare_scratch(bench).mixture
    assert mixture.weights == {name: train[name] ** 0.5 for name in ("few", "many")}
    assert train["few"] < mixture.draws()["few"] < mixture.draws()["many"] < train["many"]
    parts = json.loads((bench.folder / "data/prepared/corpus/parts.json").read_text(encoding="utf-8"))
    assert parts["replay"] == {"documents": 25, "weight": 5.0}
    assert all(part["weight"] == part["documents"] ** 0.5 for part in parts.values())


def part_rows(mixture):
    """{part: numbers of its samples}."""
    ends = np.cumsum(list(mixture.sizes.values())).tolist()
    return {name: range(end - size, end) for (name, size), end in zip(mixture.sizes.items(), ends, strict=True)}


def bench_words(bench, corpus, numbers):
    """The text of each piece in these rows of the corpus that is a whole document."""
    words = tokenizer.pretrained(bench.folder / "data/prepared/tokenizer", 64)
    pieces = [piece for number in numbers for piece in corpus.pieces(number)]
    whole = [tokens for document, tokens in pieces if len(tokens) == len(corpus.document(document))]
    return [words.decode(tokens, skip_special_tokens=True).strip() for tokens in whole]


def test_epochs_are_told_in_steps(bench):
    """Enough steps that every row is shown that often, the last one begun being finished."""
    do(bench, ingest, prepare)
    assert prepare_scratch(bench).steps == 23  # 6 epochs of 30 rows, 8 at a time: 22.5
    assert prepare_pretrain(bench).steps == 12


@pytest.mark.slow
def test_the_stages_write_the_same_bytes_twice(bench, tmp_path_factory, make_bench):
    """Outputs are a function of the inputs: no times, no paths."""
    again = make_bench(tmp_path_factory.mktemp("again"), bench.params)
    (again.folder / "rows.csv").write_bytes((bench.folder / "rows.csv").read_bytes())
    for each in (bench, again):
        do(each, ingest, prepare, pretrain, finetune, scratch, label_efficiency, evaluate)
    written = [contents(each.folder) for each in (bench, again)]
    assert written[0].keys() == written[1].keys()
    assert [name for name in written[0] if written[0][name] != written[1][name]] == []
    assert not [name for name, content in written[0].items() if str(bench.folder).encode() in content]


def contents(folder: Path):
    """{path: content} of every file."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_finetuning_with_adapters_leaves_a_merged_model_and_the_adapters(bench):
    """The model opens without peft; the adapters lie beside it; how much was trained is recorded."""
    from pretune.models import build
    from pretune.objectives.finetuning.classification import Classification

    bench.params = bench.params.model_copy(
        update={"adaptation": bench.params.adaptation.model_copy(update={"method": "lora", "settings": {"r": 2}})}
    )
    do(bench, ingest, prepare, pretrain, finetune)
    folder = bench.folder / "models" / "finetuned"
    assert {each.name for each in (folder / "adapter").iterdir()} >= {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    model, new = build.load(Classification, folder)
    assert not new
    assert not [name for name in model.state_dict() if "lora" in name]
    assert 0 < bench.recorded["trained_parameters"] < bench.recorded["parameters"]
    assert bench.recorded["parameters"] == model.num_parameters()


def with_shares(bench, *shares):
    """The bench, to measure label efficiency on these."""
    section = bench.params.label_efficiency.model_copy(update={"shares": list(shares)})
    bench.params = bench.params.model_copy(update={"label_efficiency": section})
    return bench


@pytest.mark.slow
def test_label_efficiency_is_measured_on_shares_of_the_rows(bench):
    """Both models on each share, all with as many steps; a share of all rows gives what finetune and scratch gave.

    The result has an interval for each model and share and two gains; all rows stand at the end, trained once.
    """
    do(with_shares(bench, 1, 0.999, 0.2), ingest, prepare, pretrain, finetune, scratch)
    bench.reported.clear()
    do(bench, label_efficiency, evaluate)
    names = [f"{model} on {share}" for share in (0.2, 0.999) for model in ("finetuned", "scratch")]
    assert bench.reported == [(name, 23 * number, 23 * 4) for number, name in enumerate(names)]

    folder = bench.folder / "reports"
    found = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert list(found["label_efficiency"]) == ["0.2", "0.999", "1"]
    assert [each["rows"] for each in found["label_efficiency"].values()] == [6, 30, 30]
    for each in found["label_efficiency"].values():
        assert each["labels"] == 2
        for key in ("finetuned", "scratch", "gain", "over_all"):
            assert each[key]["low"] <= each[key]["value"] <= each[key]["high"]
    whole = found["label_efficiency"]["1"]
    assert whole["finetuned"] == found["finetuned"]["accuracy"]
    assert whole["gain"] == whole["over_all"] == found["gain"]["scratch"]

    alike = predictions_io.loads((folder / "label_efficiency/0.999.json").read_text(encoding="utf-8"))
    usual = predictions_io.loads((folder / "evaluation/predictions.json").read_text(encoding="utf-8"))
    assert alike.rows == usual.rows
    for name in ("finetuned", "scratch"):
        assert (alike.models[name].probabilities == usual.models[name].probabilities).all()
    table = files.read_csv(folder / "evaluation/label_efficiency.csv")
    assert [row["finetuned"] for row in table] == [
        str(each["finetuned"]["value"]) for each in found["label_efficiency"].values()
    ]
    assert "Label efficiency" in (folder / "report.html").read_text(encoding="utf-8")
    assert bench.recorded["label_efficiency"] == found["label_efficiency"]


@pytest.mark.slow
def test_label_efficiency_goes_on_after_a_stop_without_training_again(bench):
    """What has been asked of the test rows is kept until the stage ends; the result has the same bytes."""
    do(with_shares(bench, 0.2, 0.5), ingest, prepare, pretrain, label_efficiency)
    before = contents(bench.folder / "reports" / "label_efficiency")
    shutil.rmtree(bench.folder / "reports" / "label_efficiency")
    (bench.checkpoints / "scratch on 0.2.json").unlink()
    bench.reported.clear()
    do(bench, label_efficiency)
    assert [name for name, _, _ in bench.reported] == ["scratch on 0.2"]
    assert contents(bench.folder / "reports" / "label_efficiency") == before
    assert {path.suffix for path in bench.checkpoints.iterdir()} == {".json"}


def test_without_shares_label_efficiency_trains_nothing(bench):
    """It needs neither models nor rows, and leaves an empty table; all rows are no share to train on."""
    for shares in ((), (1,)):
        do(with_shares(bench, *shares), label_efficiency)
        assert contents(bench.folder / "reports") == {"label_efficiency/shares.csv": b""}
        assert bench.reported == []
        shutil.rmtree(bench.folder / "reports")


def test_a_share_with_nothing_to_learn_is_refused_before_anything_is_trained(bench):
    """One row has one label only; the message says how many rows and labels each such share has, and what to do."""
    do(with_shares(bench, 0.03, 0.5), ingest, prepare)
    with pytest.raises(DataError, match=r"0\.03 of 30 training rows are 1, with 1 of 2 labels") as caught:
        do(bench, label_efficiency)
    assert len(caught.value.problems) == 1
    assert "raise the share" in caught.value.next_step
    assert bench.reported == []


@pytest.mark.slow
def test_the_cost_of_label_efficiency_is_that_of_all_trainings(bench):
    """Two models on each share below 1, each for as many steps as finetuning takes."""
    do(with_shares(bench, 0.2, 0.5, 1), ingest, prepare, pretrain)
    job = prepare_label_efficiency(bench)
    assert job.steps == 2 * 2 * 23
    assert job.validation is None
