"""What `prepare` leaves, opened by the library that others will open it with."""

from __future__ import annotations

import io
import json

import datasets
import pytest
from PIL import Image

from pretune.data import rows
from pretune.data.prepare import write
from pretune.data.prepare.mixing import Mixing
from pretune.data.prepare.split_assignment import SplitAssignment
from pretune.errors import DataError

SPLITS = {"train": 12, "validation": 2, "test": 2}


@pytest.fixture
def prepared(tmp_path, snapshot, prepare_params):
    """A function that writes the labelled rows, of which the function makes the n-th; returns their folder."""

    def write_rows(row):
        splits = [split for split, size in SPLITS.items() for _ in range(size)]
        params = prepare_params(decontaminate=0)
        made = snapshot([{"split": split} | row(number) for number, split in enumerate(splits)])
        write.write_labelled(tmp_path / "labelled", SplitAssignment(made, params, 0), {}, params)
        return tmp_path / "labelled"

    return write_rows


def _opened(folder, cache):
    files = {split: str(folder / f"{split}.parquet") for split in SPLITS}
    return datasets.load_dataset("parquet", data_files=files, cache_dir=str(cache))


def _text(number):
    return f"{'abcdefghijklmnop'[number] * 20} is about the harbour"


def _png(number):
    content = io.BytesIO()
    Image.new("L", (2, 2), number).save(content, "PNG")
    return content.getvalue()


MADE = {
    "label": lambda n: {"text": _text(n), "label": ["10", "9"][n % 2]},
    "labels": lambda n: {"text": _text(n), "labels": [["red"], ["red", "blue"]][n % 2]},
    "tags": lambda n: {"words": [_text(n), "Rome"], "tags": ["O", "B-PLACE"]},
}


@pytest.mark.parametrize(
    ("column", "names", "first"),
    [("label", ["9", "10"], 1), ("labels", ["blue", "red"], [1]), ("tags", ["B-PLACE", "O"], [1, 0])],
)
def test_labels_are_class_labels_of_datasets(prepared, tmp_path, column, names, first):
    """Their ids are those of labels.json; other columns that the rows have are texts, and there are no more."""
    folder = prepared(MADE[column])
    opened = _opened(folder, tmp_path / "cache")
    feature = opened["train"].features[column]
    assert (feature if column == "label" else feature.feature).names == names
    assert json.loads((folder / "labels.json").read_text()) == names
    assert opened["test"][column][0] == first
    assert set(opened["train"].column_names) == {*MADE[column](0), "split", "origin"}
    assert opened.num_rows == SPLITS
    assert rows.read(folder / "test.parquet")[0][column] == MADE[column](14)[column]


def test_images_are_images_of_datasets(prepared, tmp_path):
    """They are decoded when they are used."""
    folder = prepared(lambda n: {"image": _png(n), "label": "xy"[n % 2]})
    opened = _opened(folder, tmp_path / "cache")
    assert opened["test"].features["image"] == datasets.Image()
    assert [image.getpixel((0, 0)) for image in opened["test"]["image"]] == [14, 15]
    assert rows.read(folder / "test.parquet")[1]["image"] == _png(15)


def test_conversations_and_answers_are_lists_of_datasets(prepared, tmp_path):
    """Each with its fields; numbers are numbers."""
    row = {
        "messages": [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "Here."}],
        "answers": [{"text": "sentence", "start": 0}],
    }
    opened = _opened(
        prepared(lambda n: row | {"question": "What?", "context": _text(n), "y": [0.5]}), tmp_path / "cache"
    )
    found = {name: opened["test"][0][name] for name in ("messages", "answers", "y")}
    found["messages"] = [{name: turn[name] for name in ("role", "content")} for turn in found["messages"]]
    assert found == row | {"y": [0.5]}


def test_splits_that_cannot_be_trained_on_leave_nothing(prepared, tmp_path):
    """What is wrong is known before anything is written."""
    with pytest.raises(DataError, match=r"all training rows have the same label \(x\): nothing to learn"):
        prepared(lambda n: {"text": _text(n), "label": "x"})
    assert not (tmp_path / "labelled").exists()


@pytest.fixture
def corpus(tmp_path, snapshot, prepare_params):
    """A function that writes the corpus of 60 texts; returns {file: bytes} of the corpus and of the tokenizer."""

    def write_corpus(**changes):
        params = prepare_params(decontaminate=0, vocabulary_size=300, **changes)
        texts = [f"{number} waves, {number * 7919 % 1000} tides and a harbour" for number in range(60)]
        made = snapshot([{"text": text, "split": "corpus"} for text in texts])
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        out = write.CorpusOutputs(folder / "corpus", folder / "tokenizer", folder / "checkpoints")
        (folder / "checkpoints").mkdir(parents=True)
        write.write_corpus(out, SplitAssignment(made, params, 0), {}, params, lambda name: name, mixing=Mixing({}))
        return [{p.name: p.read_bytes() for p in sorted(part.iterdir())} for part in (out.corpus, out.inputs)]

    return write_corpus


def test_a_share_of_the_corpus_has_the_tokenizer_of_the_whole_one(corpus):
    """Half of the texts: fewer tokens, the same bytes of the tokenizer, so that losses of shares can be compared."""
    (whole, tokenizer), (half, same) = corpus(), corpus(corpus_share=0.5)
    assert same == tokenizer
    assert sum(map(len, half.values())) < sum(map(len, whole.values()))
    assert whole == corpus(corpus_share=1.0)[0]
