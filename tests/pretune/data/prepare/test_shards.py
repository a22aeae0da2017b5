from __future__ import annotations

import copy

import numpy as np
import pytest

from pretune.data.loading import corpus
from pretune.data.prepare import shards
from pretune.errors import DataError

TEXTS = [f"text {number} is about salt and {'butter ' * (number % 9)}" for number in range(60)]


def contents(folder):
    """{file: bytes}."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def small_shards(monkeypatch):
    """Shards of about a hundred tokens, batches of about a hundred characters."""
    monkeypatch.setattr(shards, "SHARD", 100)
    monkeypatch.setattr(shards, "BATCH", 100)


def test_shards_hold_the_tokens_of_all_texts_in_order(tmp_path, words, small_shards):
    """With special tokens, each document in one shard; the number of tokens is returned."""
    total = shards.Shards(tmp_path, words).write(iter(TEXTS))
    files = sorted(tmp_path.glob("tokens-*.npy"))
    assert len(files) > 5
    documents = []
    for path in files:
        ends = np.load(tmp_path / path.name.replace("tokens", "ends"))
        documents += np.split(np.load(path), ends[:-1])
    assert words.batch_decode(documents, skip_special_tokens=True) == TEXTS
    assert total == sum(map(len, documents))
    assert all(document[0] == words.cls_token_id for document in documents)


def test_rows_are_the_same_from_one_shard_and_from_many(tmp_path, words, monkeypatch):
    """Training does not depend on the division of the corpus into files."""
    for name, size in (("one", 2**24), ("many", 100)):
        monkeypatch.setattr(shards, "SHARD", size)
        monkeypatch.setattr(shards, "BATCH", 100)
        shards.Shards(tmp_path / name, words).write(iter(TEXTS))
    one, many = (corpus.Sequences(tmp_path / name, 16, words.pad_token_id) for name in ("one", "many"))
    assert len(one) == len(many)
    for first, second in zip(one.rows(np.arange(len(one))), many.rows(np.arange(len(many))), strict=True):
        assert np.array_equal(first, second)


@pytest.mark.parametrize("stopped_after", [0, 1, 17, 59])
def test_a_stopped_run_continues_to_the_same_bytes(tmp_path, words, small_shards, stopped_after):
    """Complete shards are not written again; a shard that was being written is."""

    def texts():
        yield from TEXTS[:stopped_after]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shards.Shards(tmp_path / "stopped", words).write(texts())
    complete = {path: path.stat().st_mtime_ns for path in (tmp_path / "stopped").glob("ends-*.npy")}
    (tmp_path / "stopped" / f"tokens-{len(complete):05d}.npy").write_bytes(b"half a shard")
    total = shards.Shards(tmp_path / "stopped", words).write(iter(TEXTS))
    assert shards.Shards(tmp_path / "whole", words).write(iter(TEXTS)) == total
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")
    assert {path: path.stat().st_mtime_ns for path in complete} == complete


def test_a_large_vocabulary_has_wide_ids(tmp_path, words, small_shards):
    """Four bytes each from 65,537 tokens on."""
    many = type(words)(tokenizer_object=words.backend_tokenizer, pad_token="[PAD]")  # noqa: S106 - a token of text
    many.add_tokens([f"salt{number}" for number in range(66_000)])
    shards.Shards(tmp_path, many).write(["salt65999"])
    tokens = np.load(tmp_path / "tokens-00000.npy")
    assert tokens.dtype == np.uint32
    assert many.convert_tokens_to_ids("salt65999") in tokens.tolist()


def test_an_end_token_is_appended_if_the_tokenizer_does_not(tmp_path, words, small_shards):
    """Once per text: a language model has to learn where to stop."""
    from tokenizers import processors

    plain = type(words)(tokenizer_object=words.backend_tokenizer, eos_token="[SEP]", pad_token="[PAD]")  # noqa: S106 - a token of text
    plain.backend_tokenizer.post_processor = processors.ByteLevel()
    shards.Shards(tmp_path, plain).write(["flour", "oven"])
    assert (np.load(tmp_path / "tokens-00000.npy") == plain.eos_token_id).sum() == 2


@pytest.mark.parametrize("length_set", ["in its file", "in a call"])
def test_texts_are_neither_truncated_nor_padded(tmp_path, words, small_shards, length_set):
    """Whatever length the files of a pretrained tokenizer or an earlier call set."""
    own = copy.deepcopy(words)
    if length_set == "in its file":
        own.backend_tokenizer.enable_truncation(4)
        own.backend_tokenizer.enable_padding(length=64)
        own.save_pretrained(tmp_path / "tokenizer")
        own = type(words).from_pretrained(tmp_path / "tokenizer")
    else:
        own(TEXTS, truncation=True, max_length=4, padding="max_length")
    assert shards.Shards(tmp_path / "limited", own).write(iter(TEXTS)) == sum(map(len, words(TEXTS)["input_ids"]))
    shards.Shards(tmp_path / "plain", words).write(iter(TEXTS))
    assert contents(tmp_path / "limited") == contents(tmp_path / "plain")
    if length_set == "in a call":
        assert own.backend_tokenizer.truncation["max_length"] == 4, "the tokenizer of the caller stays as it was"


def test_texts_without_tokens_are_an_error(tmp_path, words):
    """There would be nothing to train on."""
    with pytest.raises(DataError, match="no tokens"):
        shards.Shards(tmp_path, words).write(iter([]))
