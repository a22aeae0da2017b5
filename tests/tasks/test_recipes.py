"""Every recipe, for real but small: its data cut down, few steps, and the trained model answers from MLflow."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cli.recipes import every, inputs
from pretune.config import files, overrides, params
from tasks.evaluate import evaluate
from tasks.finetune import finetune
from tasks.ingest import ingest
from tasks.label_efficiency import label_efficiency
from tasks.prepare import prepare
from tasks.pretrain import pretrain
from tasks.scratch import scratch
from tasks.teacher import teacher

ROOT = Path(__file__).parent.parent.parent
SHARED = ROOT.parent / "shared" / "data"
RECIPES = {recipe.name: recipe for recipe in every(ROOT)}
FEWER = ("digits", "linear", "questions", "translation")  # whose label efficiency is measured too
KINDS = {files.read_yaml(recipe.path)["finetune"]["objective"]: name for name, recipe in RECIPES.items()}
KEPT = 160  # lines, rows or images of each file
SMALL = [
    "threads=1", "prepare.vocabulary_size=3000", "prepare.train_rows=30", "prepare.validation_rows=4",
    "prepare.test_rows=12", "prepare.similarity=1.0", "prepare.decontaminate=0",
    "prepare.validation_share=0.25", "prepare.test_share=0.25",
    "pretrain.steps=3", "pretrain.batch_size=4", "pretrain.validation_rows=2", "pretrain.evaluate_every=2",
    "finetune.epochs=1", "finetune.batch_size=4", "finetune.evaluate_every=2",
    "evaluate.bootstrap_samples=100", "evaluate.attributions=1", "evaluate.mistakes=2",
]  # fmt: skip


def cut(source, target):
    """Copy a part of a file: its first images, or lines from all of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    content = gzip.decompress(source.read_bytes()) if source.suffix == ".gz" else source.read_bytes()
    if "idx3" in source.name or "idx1" in source.name:
        each, head = (784, 16) if "idx3" in source.name else (1, 8)
        content = content[:4] + KEPT.to_bytes(4, "big") + content[8 : head + KEPT * each]
    elif source.suffix == ".json":
        whole = json.loads(content)
        if isinstance(whole, list):
            part = whole[:: max(1, len(whole) // KEPT)]
        else:  # SQuAD's form
            articles = [each | {"paragraphs": each["paragraphs"][:1]} for each in whole["data"][::6]]
            part = whole | {"data": articles}
        content = json.dumps(part).encode()
    else:
        first, *lines = content.splitlines(keepends=True)
        content = first + b"".join(lines[:: max(1, len(lines) // KEPT)])
    target.write_bytes(gzip.compress(content) if source.suffix == ".gz" else content)


def checkpoint(folder, family):
    """A BERT or Llama of random weights with a tokenizer, in place of a pretrained one."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

    from pretune.data import tokenizer

    texts = ["a film that is fun", "no film is as dull as this one"] * 20
    kind, auto = ("wordpiece", AutoModelForMaskedLM) if family == "bert" else ("byte_bpe", AutoModelForCausalLM)
    words = tokenizer.train(texts, 300, 64, kind=kind, lowercase=True)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    auto.from_config(AutoConfig.for_model(family, vocab_size=len(words), **shape)).save_pretrained(folder)
    words.save_pretrained(folder)


def bring(folder, recipe):
    """Put what the recipe reads into the folder, cut down."""
    values = files.read_yaml(recipe.path)
    for path in {path for paths in inputs(ROOT, values).values() for path in paths}:
        place = Path(path)
        if place.parts[0] == "checkpoints":
            checkpoint(folder / path, values["model"]["type"])
        elif place.parts[0] == "examples":
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / path, folder / path)
        else:
            source = SHARED / place.parts[-2] / place.name
            if not source.exists():
                pytest.skip(f"the data set {place.parts[-2]} is not in {SHARED}")
            cut(source, folder / path)


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_leads_from_its_data_to_a_model_that_answers(name, tracked, monkeypatch, make_bench):
    """Every stage runs; the report has an interval for every model; one model of each objective answers from MLflow."""
    recipe = RECIPES[name]
    bring(tracked.root, recipe)
    given = ["pretrain.steps=0"] if params.load(recipe.path).model.init else []
    document, _ = overrides.overridden(recipe.path, SMALL + given)
    document["label_efficiency"]["shares"] = [0.5] * (name in FEWER)
    for limit in {"target_length", "reply_tokens"} & document["finetune"]["settings"].keys():
        document["finetune"]["settings"][limit] = 4
    if "too_long" in document["finetune"]["settings"]:  # as nearly all rows are in the tokens of the small tokenizer
        document["finetune"]["settings"]["too_long"] = "cut"
    place = make_bench(tracked.root, params.validate(document))
    asked = [teacher] if place.params.teacher else []
    for stage in (ingest, prepare, pretrain, *asked, finetune, scratch, label_efficiency, evaluate):
        place.name = stage.__name__
        stage(place)
    result = json.loads((tracked.root / "reports/metrics.json").read_text(encoding="utf-8"))
    trained = {"finetuned", "scratch"} if place.params.scratch.trains(place.params.model) else {"finetuned"}
    assert trained <= result.keys()
    models = dict(place.models)
    assert set(models) == {"models/pretrained"} | {f"models/{model}" for model in trained}
    if name in KINDS.values():
        assert_answers_from_mlflow(tracked, models["models/finetuned"], monkeypatch)


def assert_answers_from_mlflow(tracked, example, monkeypatch):
    """The finetuned model, recorded and loaded as MLflow's model, has an answer for its example."""
    import mlflow.pyfunc

    run = tracked.stage("finetune", "key")
    run.model("finetuned", tracked.root / "models/finetuned", "0123.dir", example)
    run.end("FINISHED")
    tracked.send()
    (output,) = tracked.sent()["finetune"].outputs.model_outputs
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tracked.root / 'mlflow.db'}")
    loaded = mlflow.pyfunc.load_model(f"models:/{output.model_id}")
    answers = loaded.predict(pd.DataFrame(example))
    assert len(answers) == 1
    assert not answers.isna().to_numpy().any()


def test_recipes_hold_every_key_and_say_what_they_are():
    """Each is a complete params.yaml; its first lines tell model, data, time and what to expect."""
    assert len(RECIPES) >= 12
    for recipe in RECIPES.values():
        params.load(recipe.path)
        assert all(len(value) > 3 for value in recipe.facts().values())
        assert not {"TIME", "EXPECT"} & set(recipe.facts().values())


def test_recipes_go_with_each_other_in_what_they_do_not_say():
    """Settings that no recipe is about are those of params.yaml."""
    usual = files.flatten(files.read_yaml(ROOT / "params.yaml"))
    for recipe in RECIPES.values():
        own = files.flatten(files.read_yaml(recipe.path))
        for section in ("launch", "evaluate", "gate"):
            about = {"continue-and-replay": {"gate.forgetting"}}.get(recipe.name, set())
            same = {key: value for key, value in usual.items() if key.startswith(f"{section}.") and key not in about}
            assert {key: own[key] for key in same} == same, recipe.name


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the data sets are not in {SHARED}")
def test_the_data_that_recipes_name_are_as_published():
    """Every file that a recipe reads and this repository does not hold is there under its published name."""
    for recipe in RECIPES.values():
        for path in inputs(ROOT, files.read_yaml(recipe.path))["ingest"]:
            assert np.any([(ROOT / path).exists(), (SHARED / Path(path).parts[-2] / Path(path).name).exists()]), path
