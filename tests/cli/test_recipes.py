"""`pretune recipes` and `pretune init`: what is listed, what is replaced, what is kept."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from cli import checkpoint, recipes
from pretune.errors import DataError, NotFoundInRecordsError, ParamsError

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def workspace(tmp_path):
    """The files that `init` reads and writes, and a folder with a data set."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "elsewhere" / "sst2").mkdir(parents=True)
    for name in ("train", "dev", "test"):
        (tmp_path / "elsewhere" / "sst2" / f"{name}.tsv").write_text(f"{name}\t1\n", encoding="utf-8")
    return tmp_path


def deps(workspace, stage):
    """The inputs of a stage that are no code."""
    found = YAML(typ="safe").load(workspace / "dvc.yaml")["stages"][stage]["deps"]
    return [path for path in found if not path.endswith(".py")]


def test_a_recipe_becomes_params_yaml_and_the_old_one_is_kept(workspace):
    """Byte for byte, both; so is dvc.yaml."""
    before = {name: (workspace / name).read_bytes() for name in ("params.yaml", "dvc.yaml")}
    done = recipes.init(workspace, "digits")
    assert (workspace / "params.yaml").read_bytes() == (workspace / "examples/digits.yaml").read_bytes()
    assert {name: (workspace / done.kept / name).read_bytes() for name in before} == before
    assert done.missing == []
    assert recipes.init(workspace, "digits").kept != done.kept


def test_dvc_yaml_lists_what_the_recipe_reads_and_nothing_else_changes(workspace):
    """The data under ingest, a checkpoint under every stage that reads it; without them, the file is as it was."""
    recipes.init(workspace, "digits")
    plain = (workspace / "dvc.yaml").read_text(encoding="utf-8")
    usual = {
        stage: deps(workspace, stage) for stage in ("ingest", "prepare", "pretrain", "scratch", "label_efficiency")
    }
    recipes.init(workspace, "sentiment-bert-base")
    files = [f"data/sets/sst2/{name}.tsv" for name in ("train", "dev", "test")]
    assert deps(workspace, "ingest") == files + usual["ingest"]
    for stage in ("prepare", "pretrain", "scratch", "label_efficiency"):
        assert deps(workspace, stage) == ["checkpoints/bert-base-uncased", *usual[stage]]
    recipes.init(workspace, "distil")
    assert deps(workspace, "teacher")[:2] == ["checkpoints/smollm2", "data/prepared/labelled"]
    assert deps(workspace, "finetune")[0] == "data/teacher"
    recipes.init(workspace, "digits")
    assert (workspace / "dvc.yaml").read_text(encoding="utf-8") == plain


def test_benchmarks_are_inputs_of_evaluate_with_their_data(workspace):
    """The files of tasks and what they read; names of the harness's own tasks are no files."""
    values = YAML(typ="safe").load(workspace / "params.yaml")
    usual = recipes.inputs(workspace, values)
    (workspace / "task.yaml").write_text(
        "{task: t, dataset_path: json, dataset_kwargs: {data_files: {test: a.jsonl, train: [b.jsonl]}},"
        " output_type: generate_until, doc_to_text: a, doc_to_target: b}",
        encoding="utf-8",
    )
    values["evaluate"]["benchmarks"] = ["task.yaml", "hellaswag", "missing.yaml"]
    named = {"evaluate": ["task.yaml", "a.jsonl", "b.jsonl", "missing.yaml"]}
    assert recipes.inputs(workspace, values) == usual | named


def test_a_checkpoint_becomes_all_settings_that_follow_from_it(workspace, words):
    """Type, tokenizer, no pretraining, lengths that it can read, deps of every stage; comments stay.

    A recipe that goes on with the pretraining of a checkpoint does so with another one.
    """
    folder = workspace / "models/mine"
    folder.mkdir(parents=True)
    words.save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "qwen2", "max_position_embeddings": 128}', encoding="utf-8")
    recipes.init(workspace, "chat-lora", model=checkpoint.place(workspace, workspace / "models", "mine"))
    values = YAML(typ="safe").load(workspace / "params.yaml")
    assert values["model"] == {"type": "qwen2", "init": "models/mine", "config": {}}
    assert values["prepare"]["tokenizer"] == "models/mine"
    assert (values["pretrain"]["steps"], values["pretrain"]["validation_rows"]) == (0, 0)
    assert (values["prepare"]["max_length"], values["finetune"]["sequence_length"]) == (128, 128)
    assert values["finetune"]["learning_rate"] == 2e-4
    assert "# what of the pretrained model finetuning trains" in (workspace / "params.yaml").read_text(encoding="utf-8")
    for stage in ("prepare", "pretrain", "scratch", "label_efficiency", "evaluate"):
        assert deps(workspace, stage)[0] == "models/mine"
    recipes.init(workspace, "instructions", model="models/mine")
    values = YAML(typ="safe").load(workspace / "params.yaml")
    assert (values["finetune"]["learning_rate"], values["finetune"]["precision"]) == (2e-5, "auto")
    recipes.init(workspace, "continue-and-replay", model="models/mine")
    values = YAML(typ="safe").load(workspace / "params.yaml")
    assert (values["model"]["init"], values["pretrain"]["steps"]) == ("models/mine", 120)


def test_a_checkpoint_that_does_not_go_with_a_recipe_is_told(workspace):
    """Nothing is written; so it is for a folder that is not there."""
    before = (workspace / "params.yaml").read_bytes()
    (workspace / "mine").mkdir()
    (workspace / "mine/config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    with pytest.raises(ParamsError, match=r"finetune\.objective: instruction is not for model\.type bert"):
        recipes.init(workspace, "chat-lora", model="mine")
    with pytest.raises(DataError, match="no such folder"):
        checkpoint.place(workspace, workspace, "yours")
    assert checkpoint.place(workspace, workspace, "org/name@" + "0" * 40) == "org/name@" + "0" * 40
    assert (workspace / "params.yaml").read_bytes() == before


def test_data_are_copied_from_a_folder_and_what_is_missing_is_told(workspace):
    """From a folder of data sets or from that of one; nothing that is there is overwritten."""
    files = [f"data/sets/sst2/{name}.tsv" for name in ("dev", "test", "train")]
    checkpoint = "checkpoints/all-minilm-l6-v2"
    assert recipes.init(workspace, "sentiment").missing == [checkpoint, *files]
    done = recipes.init(workspace, "sentiment", workspace / "elsewhere")
    assert (done.brought, done.missing) == (files, [checkpoint])
    (workspace / files[0]).write_text("mine", encoding="utf-8")
    assert recipes.init(workspace, "sentiment", workspace / "elsewhere" / "sst2").brought == []
    assert (workspace / files[0]).read_text(encoding="utf-8") == "mine"


def test_mistakes_change_nothing(workspace):
    """A name that is near one, a folder that is not there."""
    before = (workspace / "params.yaml").read_bytes()
    with pytest.raises(NotFoundInRecordsError, match=r"no recipe `topic` \(did you mean topics\?\)"):
        recipes.init(workspace, "topic")
    with pytest.raises(DataError, match="no such folder"):
        recipes.init(workspace, "topics", workspace / "nowhere")
    assert (workspace / "params.yaml").read_bytes() == before


def test_a_file_that_does_not_say_what_it_is_is_named(workspace):
    """Every recipe begins with model, data, time and what to expect."""
    (workspace / "examples" / "mine.yaml").write_text("# Mine\n# model: bert\n\nseed: 0\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"mine\.yaml does not say `# data"):
        recipes.every(workspace)
