from __future__ import annotations

import json
import subprocess
import sys

import pytest
from ruamel.yaml import YAML

from cli import data, preview
from pretune.data import rows
from pretune.errors import DataError, GraphError, UndeclaredInputError
from pretune.lineage.graph import Node
from pretune.objectives.base import ObjectiveContext
from pretune.objectives.finetuning.classification import Classification
from pretune.runtime.stage import Stage


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
    assert json.loads(capsys.readouterr().out) == {
        "source": "x",
        "training_rows": {},
        "as_the_model_gets_them": [],
    }


def prepared(project):
    """Write a data card; the folder for the labelled rows, which are not there yet."""
    (project / "reports" / "data").mkdir(parents=True)
    (project / "reports" / "data" / "card.md").write_text("# Data card: x\n", encoding="utf-8")
    (project / "reports" / "data" / "card.json").write_text('{"source": "x"}', encoding="utf-8")
    labelled = project / "data" / "prepared" / "labelled"
    labelled.mkdir(parents=True)
    return labelled


def test_the_first_rows_are_shown_as_the_model_gets_them(project, words, capsys):
    """After the tokenizer, with special tokens, what is cut, and ids of labels; no control character is printed."""
    labelled = prepared(project)
    texts = ["number 1 is about waves\x1b", "number 2 " * 60]
    rows.write(labelled / "train.parquet", [{"text": text, "label": "sea", "origin": "a:1"} for text in texts])
    (labelled / "labels.json").write_text('["kitchen", "sea"]', encoding="utf-8")
    words.save_pretrained(project / "data" / "prepared" / "tokenizer")
    data.show(as_json=True)
    first, second = json.loads(capsys.readouterr().out)["as_the_model_gets_them"]
    assert (first["text"], first["label"]) == ("[CLS]number 1 is about waves\x1b[SEP]", "sea (id 1)")
    assert second["tokens"].endswith("cut at finetune.sequence_length 64")
    data.show()
    shown = capsys.readouterr().out
    assert "[CLS]number 1" in shown
    assert "\x1b" not in shown


def test_conversations_are_counted_as_they_will_be_trained_on(project, words, capsys):
    """Of training and validation rows: cut, dropped, and with nothing to learn, by the settings in params.yaml."""
    labelled = prepared(project)
    long = "butter " * 100
    talks = [("ice?", "white"), ("snow?", long), (long, "late"), (long, long)]
    talks = [[{"role": "user", "content": asked}, {"role": "assistant", "content": said}] for asked, said in talks]
    made = [{"messages": talk, "origin": f"a:{line}"} for line, talk in enumerate(talks, start=1)]
    for split, part in {"train": made, "validation": made[:1]}.items():
        rows.write(labelled / f"{split}.parquet", part)
    (labelled / "labels.json").write_text("[]", encoding="utf-8")
    words.save_pretrained(project / "data" / "prepared" / "tokenizer")
    settings = {"template": None, "reply_tokens": 4, "loss": "all", "reasoning": "trained"}
    expected = {"cut": {"rows": 4, "samples": 2, "cut": 3, "dropped": 0, "empty": 2},
                "drop": {"rows": 4, "samples": 1, "cut": 0, "dropped": 3, "empty": 0}}  # fmt: skip
    for too_long, counts in expected.items():
        values = YAML(typ="safe").load(project / "params.yaml")
        values["finetune"] |= {"objective": "instruction", "settings": settings | {"too_long": too_long}}
        YAML().dump(values, project / "params.yaml")
        data.show(as_json=True)
        found = json.loads(capsys.readouterr().out)["training_rows"]["finetune"]
        shown = {name.removesuffix(" rows"): line for name, line in found["rows"].items()}
        assert {name: shown[name]["train"] for name in counts} == counts
        assert (shown["rows"]["validation"], shown["cut"]["validation"]) == (1, 0)
        assert all(text.startswith("train: ") for text in found["warnings"])
    data.show()
    shown = " ".join(capsys.readouterr().out.split())
    assert "warning: train: 3 of 4 rows are longer than finetune.sequence_length 64 and left out" in shown
    assert "rows that finetune trains on, at finetune.sequence_length 64" in shown


def test_data_that_params_name_are_listed_by_one_command(project, capsys):
    """Those of params.yaml, or those that are named; the rest of dvc.yaml stays."""
    before = (project / "dvc.yaml").read_text(encoding="utf-8")
    (project / "data").mkdir()
    (project / "data" / "a.csv").write_text("text\n", encoding="utf-8")
    data.declare(["data/*.csv"])
    assert "dvc.yaml lists data under stages.ingest.deps" in capsys.readouterr().out
    assert YAML(typ="safe").load(project / "dvc.yaml")["stages"]["ingest"]["deps"][0] == "data"
    assert before.splitlines()[-1] in (project / "dvc.yaml").read_text(encoding="utf-8")
    data.declare(None)
    assert "already" in capsys.readouterr().out
    with pytest.raises(DataError, match="nothing"):
        data.declare(["nothing.csv"])
    with pytest.raises(GraphError, match=r"no stage ingets in dvc\.yaml \(did you mean ingest\?\)"):
        data.declare(["data"], stage="ingets")


def test_a_source_that_dvc_yaml_does_not_list_leads_to_the_command_that_lists_it(tmp_path):
    """For the stage that reads it; a path below one that is listed needs nothing."""
    (tmp_path / "data").mkdir()

    def stage(name):
        node = Node(name, "", ["data"], [], [], [], {})
        return Stage(tmp_path, node, {}, params=None, run=None, progress=None)

    assert stage("ingest").resolve_input("data/a.csv") == tmp_path / "data/a.csv"
    for name, command in {"ingest": "'my a.csv'", "prepare": "'my a.csv' --stage prepare"}.items():
        with pytest.raises(UndeclaredInputError, match=r"reads my a\.csv, which dvc\.yaml does not list") as caught:
            stage(name).resolve_input("my a.csv")
        assert caught.value.next_step == f"pretune data declare {command}"


def test_a_pair_is_shown_as_it_is_cut_for_training(tmp_path, params, words):
    """The longer text loses its end, and the separators stay: what the objective makes of the same row."""
    folder = tmp_path / "data" / "prepared"
    row = {"text": "sea " * 40, "pair": "salt", "label": "a", "origin": "here:1"}
    other = row | {"text": "wave", "label": "b"}
    (folder / "labelled").mkdir(parents=True)
    rows.write(folder / "labelled" / "train.parquet", [row, other])
    (folder / "labelled" / "labels.json").write_text('["a", "b"]', encoding="utf-8")
    words.save_pretrained(folder / "tokenizer")
    finetune = params.finetune.model_copy(update={"objective": "classification", "sequence_length": 16})
    shown = preview.rows(tmp_path, params.model_copy(update={"finetune": finetune}))
    made = Classification([row, other], ObjectiveContext(words, 16, 0, Classification.Settings(), ["a", "b"]))
    assert [line["text"] for line in shown] == [words.decode(ids) for ids in made.texts]
    assert "cut at finetune.sequence_length 16" in shown[0]["tokens"]
    assert "cut" not in shown[1]["tokens"]
