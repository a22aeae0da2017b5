"""`pretune init FILE…`: what is looked at, shown and written."""

# ruff: noqa: RUF001 - letters of several scripts look alike
from __future__ import annotations

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from cli import init
from cli.app import app
from cli.proposal import rehearsal
from cli.proposal.inspection import Request
from cli.proposal.propose import propose
from pretune.config import params
from pretune.data.ingest.sources import hub
from pretune.data.ingest.sources.record import Record
from pretune.data.inspect.machine import Pace
from pretune.errors import DataError, NotFoundInRecordsError, ParamsError

ROOT = Path(__file__).parent.parent.parent
ROWS = [f"{n},film {n} is {('fine', 'dull')[n % 2]} and long,{('good', 'bad')[n % 2]}" for n in range(120)]

PACE = rehearsal._pace


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A workspace with data/reviews.csv; steps are not timed."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("*.py", "data"))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "reviews.csv").write_text("\n".join(["id,review,verdict", *ROWS]), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rehearsal, "_pace", lambda _: Pace(0.05, 0.02))
    return tmp_path


def run(*arguments):
    """The output of a command that succeeds."""
    result = CliRunner().invoke(app, ["init", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def proposed(root, *named, **more):
    """The proposal for these places."""
    given = [name if isinstance(name, tuple) else (None, name) for name in named]
    return propose(root, root, Request(given, timed=False, **more))


def test_a_table_is_shown_and_written_only_with_yes(workspace):
    """Without a terminal and without --yes the files stay; with it both change, and the old ones are kept."""
    before = {name: (workspace / name).read_bytes() for name in ("params.yaml", "dvc.yaml")}
    shown = run("data/reviews.csv")
    assert {name: (workspace / name).read_bytes() for name in before} == before
    for part in ("120 rows", "utf-8", "comma", "review", "verdict", "binary", "good (60)", "minutes", "--yes"):
        assert part in shown
    assert "the old files are in .pretune/kept/before-1-reviews" in run("data/reviews.csv", "--yes")
    kept = workspace / ".pretune/kept/before-1-reviews"
    assert {name: (kept / name).read_bytes() for name in before} == before
    written = params.load(workspace / "params.yaml")
    assert written.ingest.columns == {"text": "review", "label": "verdict"}
    assert (written.ingest.licence, written.finetune.objective) == ("unknown", "binary")
    assert "# share of tokens to predict" in before["params.yaml"].decode()
    text = (workspace / "params.yaml").read_text(encoding="utf-8")
    assert text.startswith("# Proposed by `pretune init data/reviews.csv`")
    assert "# tokens to learn" in text
    stages = YAML(typ="safe").load(workspace / "dvc.yaml")["stages"]
    assert stages["ingest"]["deps"][0] == "data/reviews.csv"


def test_json_holds_what_was_seen_and_the_params(workspace):
    """Nothing is written unless --yes says so."""
    found = json.loads(run("data/reviews.csv", "--json", "--column", "text=review", "--budget", "1"))
    assert found["written"] is False
    assert {"what": "objective", "found": "binary", "why": "needs text, label"} in found["seen"]
    assert found["params"]["ingest"]["source"] == "data/reviews.csv"
    assert json.loads(run("data/reviews.csv", "--json", "--yes"))["written"] is True
    assert params.load(workspace / "params.yaml").ingest.source == "data/reviews.csv"


def test_files_named_for_a_split_and_texts_for_pretraining(workspace):
    """`--test` and `--corpus` become parts of the source; test rows without a label are for pretraining."""
    table = (workspace / "data/reviews.csv").read_text(encoding="utf-8")
    (workspace / "data/held.csv").write_text(table.replace("film", "play"), encoding="utf-8")
    (workspace / "wiki").mkdir()
    (workspace / "wiki/a.txt").write_text("An article.\n\nAnother one.\n", encoding="utf-8")
    run("data/reviews.csv", "--test", "data/held.csv", "--corpus", "wiki/*.txt", "--yes")
    source = params.load(workspace / "params.yaml").ingest.source
    assert source == {"train": "data/reviews.csv", "test": "data/held.csv", "corpus": "wiki/*.txt"}
    deps = YAML(typ="safe").load(workspace / "dvc.yaml")["stages"]["ingest"]["deps"]
    assert deps[:3] == ["data/reviews.csv", "data/held.csv", "wiki"]
    (workspace / "data/held.csv").write_text("id,review\n1,a play without a verdict\n", encoding="utf-8")
    found = proposed(workspace, ("train", "data/reviews.csv"), ("test", "data/held.csv"))
    assert found.values["ingest"]["source"] == {"train": "data/reviews.csv", "corpus": "data/held.csv"}
    assert "its test rows have no verdict" in found.hints[0]


def test_own_files_and_a_checkpoint(workspace, monkeypatch, tiny, words):
    """Type, tokenizer and deps are the checkpoint's; it is not pretrained, and gets adapters, as many epochs as fit.

    Steps are timed on the checkpoint where it lies.
    """
    from pretune.models import build
    from pretune.objectives.finetuning.instruction import Instruction

    monkeypatch.setattr(rehearsal, "_pace", PACE)
    build.save(build.new(Instruction, tiny("llama")), words, workspace / "mine", {})
    monkeypatch.delattr(build, "save")
    talk = [{"instruction": f"Say {n} twice.", "input": "", "output": f"{n} {n}."} for n in range(80)]
    (workspace / "talk.json").write_text(json.dumps(talk), encoding="utf-8")
    assert "mine" in run("talk.json", "--model", "mine", "--yes")
    written = params.load(workspace / "params.yaml")
    assert (written.model.type, written.model.init, written.prepare.tokenizer) == ("llama", "mine", "mine")
    assert (written.pretrain.steps, written.adaptation.method, written.finetune.epochs) == (0, "lora", 3)
    assert (written.finetune.objective, written.finetune.learning_rate) == ("instruction", 2e-4)
    assert written.finetune.sequence_length <= 64, "what the checkpoint reads"
    stages = YAML(typ="safe").load(workspace / "dvc.yaml")["stages"]
    assert (stages["ingest"]["deps"][0], stages["evaluate"]["deps"][0]) == ("talk.json", "mine")
    columns = {"text": "instruction", "target": "output"}
    with pytest.raises(ParamsError, match=r"finetune\.objective: seq2seq is not for model\.type llama"):
        proposed(workspace, "talk.json", init="mine", objective="seq2seq", columns=columns)


def test_names_of_files_and_folders_say_the_splits(workspace):
    """As train.csv, dev.csv and test.csv in a folder, and a folder of images for each."""
    (workspace / "sets").mkdir()
    table = (workspace / "data/reviews.csv").read_text(encoding="utf-8")
    for name in ("train", "dev", "test"):
        (workspace / f"sets/{name}.csv").write_text(table.replace("film", name), encoding="utf-8")
    (workspace / "sets/README.md").write_text("About these files.\n", encoding="utf-8")
    source = proposed(workspace, "sets").values["ingest"]["source"]
    assert source == {"train": "sets/train.csv", "validation": "sets/dev.csv", "test": "sets/test.csv"}


def test_data_outside_the_workspace_are_allowed_and_named_by_their_place(workspace, tmp_path_factory):
    """`ingest.allow` says so."""
    outside = tmp_path_factory.mktemp("elsewhere") / "reviews.csv"
    shutil.copy(workspace / "data/reviews.csv", outside)
    section = proposed(workspace, str(outside)).values["ingest"]
    assert (section["source"], section["allow"]) == (str(outside), ["outside"])


@pytest.mark.parametrize(
    ("name", "encoding", "text", "expected"),
    [
        ("a.csv", "cp1252", "review;verdict\n" + "un café très agréable;bon\nl’hôtel était sale;mal\n" * 20,
         {"encoding": "cp1252", "delimiter": "auto", "columns": {"text": "review", "label": "verdict"}}),
        ("a.tsv", "utf-8", '"a ""good"" film"\t"1"\n"a dull film"\t"0"\n' * 20,
         {"format": "csv", "delimiter": "tab", "header": False, "columns": {"text": "1", "label": "2"}}),
        ("a.txt", "utf-16", "a film, that film;good\na film, this film;bad\n" * 20,
         {"format": "csv", "encoding": "utf-16", "header": False, "columns": {"text": "1", "label": "2"}}),
        ("a.txt", "utf-8", "one text\nanother text\na third\n" * 10, {"format": "lines"}),
        ("a.txt", "utf-8", "one text\nof two lines\n\nanother text\n\n" * 10, {"format": "auto"}),
        ("a.txt", "utf-8", "Paris B-LOC\nis O\n\nno O\nplace O\n\n" * 20, {"format": "conll", "columns": {}}),
    ],
)  # fmt: skip
def test_files_are_read_as_what_they_are(workspace, name, encoding, text, expected):
    """Encoding, delimiter, quoting, header and the layout of texts, by their content."""
    lines = text.splitlines()
    numbered = [
        line.replace("film", f"film {n}").replace("text", f"text {n}").replace("agréable", f"agréable {n}")
        for n, line in enumerate(lines)
    ]
    (workspace / name).write_bytes("\n".join([*numbered, ""]).encode(encoding))
    section = proposed(workspace, name).values["ingest"]
    assert {key: section[key] for key in expected} == expected


def test_a_chinese_text_gets_a_tokenizer_of_its_own(workspace):
    """Not one of bytes with few tokens."""
    rows = [f"房间{n}很干净，早餐丰富，服务也非常好,{n % 2}" for n in range(60)]
    (workspace / "hotels.csv").write_text("\n".join(["review,label", *rows]), encoding="gb18030")
    section = proposed(workspace, "hotels.csv").values
    assert section["ingest"]["encoding"] == "gb18030"
    assert (section["prepare"]["tokenizer"], section["prepare"]["vocabulary_size"]) == ("unigram", 8000)


def test_few_rows_are_all_used_and_no_label_is_in_test_alone(workspace):
    """No validation, no calibration; the seed is one for which every label can be learnt."""
    rows = [f"film {n} is quite long,{'rare' if n < 2 else 'usual'}" for n in range(24)]
    (workspace / "few.csv").write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    found = proposed(workspace, "few.csv")
    section, finetune = found.values["prepare"], found.values["finetune"]
    assert (section["train_rows"], section["validation_rows"], section["validation_share"]) == (None, 0, 0.0)
    assert (finetune["calibrate"], finetune["evaluate_every"]) == (False, 0)
    assert found.doubts == []


def test_all_that_cannot_be_used_is_listed_at_once(workspace):
    """With the way on; a traceback never."""
    (workspace / "data/notes.txt").write_text("hello\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        proposed(workspace, "nothing.csv", "data")
    assert len(caught.value.problems) == 2
    assert "files of several kinds" in str(caught.value)
    for name, text, message in [
        ("empty.csv", "", "is empty"),
        ("head.csv", "text,label\n", "no rows"),
        ("one.csv", "text,label\na long text,b\n", "too few"),
        ("pointer.csv", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS"),
    ]:
        (workspace / name).write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=message):
            proposed(workspace, name)
    with pytest.raises(DataError, match=r"no column verdikt \(did you mean verdict\?\)"):
        proposed(workspace, "data/reviews.csv", columns={"label": "verdikt"})
    with pytest.raises(NotFoundInRecordsError, match=r"no file or folder sentimant, and no recipe \(did you mean"):
        init.init(["sentimant"])


def test_columns_are_named_as_on_the_command_line():
    """Lists with commas, parts of messages and answers; all mistakes at once."""
    named = ["text=title,body", "label=stars", "user=instruction,input", "assistant=output", "answers.text=a"]
    assert init.parse_columns(named) == {
        "text": ["title", "body"], "label": "stars", "answers": {"text": "a"},
        "messages": {"user": ["instruction", "input"], "assistant": "output"},
    }  # fmt: skip
    with pytest.raises(ParamsError) as caught:
        init.parse_columns(["txt=a", "label=a,b", "text"])
    assert len(caught.value.problems) == 3


def test_a_split_of_the_hub_without_labels_is_for_pretraining(workspace, monkeypatch):
    """As the test rows of GLUE: the others keep their splits."""

    def rows(split, label):
        return lambda: (
            Record(f"copy/{split}:{n}", {"text": f"{split} text {n}", "label": label(n)}) for n in range(60)
        )

    splits = {"train": lambda n: "ab"[n % 2], "validation": lambda n: "ab"[n % 2], "test": lambda _: None}
    monkeypatch.setattr(hub, "read", lambda *_: [(split, rows(split, label)) for split, label in splits.items()])
    (workspace / "copy").mkdir()
    place = {"type": "hub", "name": "./copy"}
    assert proposed(workspace, "hub:./copy").values["ingest"]["source"] == {
        "train": place | {"split": "train"},
        "validation": place | {"split": "validation"},
        "corpus": place | {"split": "test"},
    }


RESOLVE = """
import sys
from cli.proposal.inspection import resolve_hub
from pretune.data.inspect.places import Source
source = Source(None, {"type": "hub", "name": "team/reviews"})
resolve_hub(source)
print(source.place["revision"])
"""
COMMIT = "0123456789" * 4


class Hub(http.server.BaseHTTPRequestHandler):
    """The hub's answer about one data set."""

    def do_GET(self):
        content = json.dumps({"id": "team/reviews", "sha": COMMIT, "siblings": []}).encode()
        self.send_response(200 if self.path.partition("?")[0] == "/api/datasets/team/reviews" else 404)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        """Print nothing."""


def test_a_data_set_of_the_hub_gets_the_commit_that_it_is_at(tmp_path):
    """From the hub's own interface: a run later reads the same rows."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        own = {
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "HF_HOME": str(tmp_path),
            "NO_PROXY": "127.0.0.1",
        }
        done = subprocess.run(
            [sys.executable, "-c", RESOLVE], env=os.environ | own, capture_output=True, text=True, check=False, cwd=ROOT
        )
        server.shutdown()
        thread.join()
    assert done.stdout.strip() == COMMIT, done.stderr
