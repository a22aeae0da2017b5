from __future__ import annotations

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretune.errors import DataError, WorkspaceError
from pretune.release import predict

READS = {"text": "string", "pair": "string?"}
WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(str.strip)


class Length:
    """Answers with the length of a text."""

    reads, gives = READS, {"label": "string"}

    def __init__(self):
        self.windows = []

    def __call__(self, rows):
        self.windows.append(len(rows))
        return [{"label": str(len(row["text"]))} for row in rows]


def predicted(text, *, stdin_format="text", keep=(), to="jsonl"):
    """The number of rows and the output for a standard input."""
    out = io.StringIO()
    rows = predict.read_rows([], io.BytesIO(text.encode()), stdin_format)
    number = predict.write(predict.predict_windows(predict.validate(rows, READS), Length(), list(keep)), out, to)
    return number, out.getvalue()


@given(st.lists(WORDS, max_size=20))
def test_every_row_is_answered_in_its_order(texts):
    """JSON Lines in, JSON Lines out."""
    number, out = predicted("".join(json.dumps({"text": text}) + "\n" for text in texts), stdin_format="jsonl")
    assert number == len(texts)
    assert [json.loads(line) for line in out.splitlines()] == [{"label": str(len(text))} for text in texts]


@given(st.lists(st.tuples(WORDS, st.text(st.characters(exclude_categories=["Cs", "Cc"]))), max_size=20))
def test_csv_comes_back_as_csv(pairs):
    """Commas, quotes and every script are preserved; a kept column is unchanged."""
    source = io.StringIO()
    table = csv.writer(source, lineterminator="\n")
    table.writerows([("id", "text"), *((name, text) for text, name in pairs)])
    _, out = predicted(source.getvalue(), stdin_format="csv", keep=["id"], to="csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert rows == [{"id": name, "label": str(len(text))} for text, name in pairs]


def test_files_are_read_by_their_suffix(tmp_path):
    """Several, one after the other; lines of a .txt are texts."""
    (tmp_path / "a.txt").write_text("sea\n\nsalt\r\n", encoding="utf-8")
    (tmp_path / "b.csv").write_text('text,n\n"x, y",1\n', encoding="utf-8-sig")
    (tmp_path / "c.jsonl").write_text('{"text": "wave"}\n', encoding="utf-8")
    files = [tmp_path / name for name in ("a.txt", "b.csv", "c.jsonl")]
    rows = list(predict.read_rows(files, io.BytesIO(), "text"))
    assert [row["text"] for _, row in rows] == ["sea", "salt", "x, y", "wave"]
    assert [place.rpartition("/")[2] for place, _ in rows] == ["a.txt:1", "a.txt:3", "b.csv:2", "c.jsonl:1"]


def test_a_table_is_read_as_for_training(tmp_path):
    """A quotation mark that is not closed swallows no row, and other delimiters than commas are found."""
    (tmp_path / "a.csv").write_text('text;n\nsea;1\n"salt;2\nwave;3\n"tide;4\n', encoding="utf-8")
    rows = list(predict.read_rows([tmp_path / "a.csv"], io.BytesIO(), "text"))
    assert [row["text"] for _, row in rows if isinstance(row, dict)] == ["sea", "wave"]
    assert [place.rpartition(":")[2] for place, row in rows if isinstance(row, str)] == ["3", "5"]


def test_rows_are_predicted_in_windows(monkeypatch):
    """Input of any length needs the memory of one window; each is written before the next is read."""
    monkeypatch.setattr(predict, "WINDOW", 2)
    model, out, seen = Length(), io.StringIO(), []

    def lines():
        for place in range(5):
            seen.append(len(out.getvalue().splitlines()))
            yield f"here:{place}", {"text": "x" * place}

    predict.write(predict.predict_windows(predict.validate(lines(), READS), model, []), out, "jsonl")
    assert model.windows == [2, 2, 1]
    assert seen == [0, 0, 2, 2, 4]


def test_every_wrong_row_is_named_by_its_line():
    """All of a window at once, with the problem and a suggestion."""
    text = '{"txt": "a"}\nnonsense\n{"text": 3}\n{"text": "b", "pair": ["c"]}\n[1]\n'
    with pytest.raises(DataError) as caught:
        predicted(text, stdin_format="jsonl")
    assert caught.value.problems == [
        "standard input:1: no column `text` (did you mean txt?); there are: txt",
        "standard input:2: not JSON",
        "standard input:3: `text` is int, not text",
        "standard input:4: `pair` is list, not text",
        "standard input:5: not a JSON object",
    ]


def test_what_came_before_a_wrong_row_is_answered(monkeypatch):
    """The windows before it are written."""
    monkeypatch.setattr(predict, "WINDOW", 1)
    out = io.StringIO()
    rows = predict.read_rows([], io.BytesIO(b'{"text": "a"}\n{}\n'), "jsonl")
    with pytest.raises(DataError, match="there are: none"):
        predict.write(predict.predict_windows(predict.validate(rows, READS), Length(), []), out, "jsonl")
    assert out.getvalue() == '{"label": "1"}\n'


def test_a_column_that_the_model_gives_cannot_be_kept():
    """One of the two would be lost."""
    with pytest.raises(DataError, match="--keep label"):
        predicted("x\n", keep=["label"])


@pytest.mark.parametrize(("name", "content", "message"), [
    ("a.xlsx", b"", "not a .jsonl"), ("nothing.csv", None, "no file"), ("latin.txt", b"caf\xe9\n", "not UTF-8"),
])  # fmt: skip
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, content, message):
    """Its suffix, that it is missing, or the byte that is no UTF-8."""
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(predict.validate(predict.read_rows([tmp_path / name], io.BytesIO(), "text"), READS))


def test_images_are_read_from_their_files(tmp_path):
    """The content of the file replaces its path; a missing file is named."""
    (tmp_path / "a.png").write_bytes(b"png")
    reads = {"image": "binary"}
    ((row,),) = predict.validate([("here:1", {"image": str(tmp_path / "a.png")})], reads)
    assert row["image"] == b"png"
    with pytest.raises(DataError, match=r"no file .*b\.png"):
        list(predict.validate([("here:1", {"image": str(tmp_path / "b.png")})], reads))


def test_a_folder_without_a_model_is_an_error(tmp_path, monkeypatch):
    """And so is a run or alias outside a workspace."""
    with pytest.raises(DataError, match=r"no config\.json"):
        predict.folder(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WorkspaceError):
        predict.folder("@champion")


def conversations(*rows, system=""):
    """What rows become for a chat model: messages, or why they cannot be."""
    located = [(f"line {number}", row) for number, row in enumerate(rows, start=1)]
    return [
        row if isinstance(row, str) else [(turn["role"], turn["content"]) for turn in row["messages"]]
        for _, row in predict.as_conversations(located, system)
    ]


def test_a_text_is_a_message_of_the_user():
    """After the instruction, if there is one; conversations of several messages stay."""
    turns = [("user", "salt?"), ("assistant", "yes"), ("user", "why?")]
    longer = {"messages": [{"role": role, "content": content} for role, content in turns]}
    assert conversations({"text": "salt?"}, longer) == [[("user", "salt?")], turns]
    kind = ("system", "be kind")
    assert conversations({"text": "salt?"}, longer, system="be kind") == [[kind, ("user", "salt?")], [kind, *turns]]


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ("salt?", "not a list"),
        ([], "not a list"),
        ([{"role": "user", "content": "salt?"}, {"content": "yes"}], "message 2 has no role"),
        ([{"role": "user", "content": 3}], "message 1 is not text"),
        ([{"role": "user", "content": "salt?"}, {"role": "assistant", "content": "yes"}], "last message is an answer"),
        ([{"role": "system", "content": "be rude"}, {"role": "user", "content": "salt?"}], "another"),
    ],
)
def test_messages_that_cannot_be_answered_have_a_reason(messages, reason):
    """It is told with the place of the row."""
    (found,) = conversations({"messages": messages}, system="be kind")
    assert reason in found
