"""Span corruption and denoising as objectives: batches of a corpus."""

from __future__ import annotations

import numpy as np
import pytest

from pretune.data.loading import corpus
from pretune.objectives.base import ObjectiveContext
from pretune.objectives.pretraining.denoising import Denoising
from pretune.objectives.pretraining.span_corruption import SENTINELS, SpanCorruption

TEXTS = ["number 7 is about salt. waves are salt! flour oven", "butter", "harbour " * 40, "is about 9. 9 is about salt"]
LENGTH = 32


@pytest.fixture(params=[SpanCorruption, Denoising])
def objective(request, words, tmp_path):
    """A function from a seed to each objective on a corpus of documents of different lengths."""
    words.save_pretrained(tmp_path / "tokenizer")
    folder = tmp_path / "corpus"
    folder.mkdir()
    corpus.write(folder, words(TEXTS)["input_ids"])
    chosen = {"mask_rate": 0.4, "span_length": 2.0}
    chosen |= {"permute_sentences": True} if request.param is Denoising else {}

    def make(seed=0):
        inputs = request.param.inputs(tmp_path / "tokenizer")
        context = ObjectiveContext(inputs, LENGTH, seed, request.param.Settings(**chosen))
        return request.param.of(request.param.samples(folder, context), context)

    return make


def lines(batch, padding):
    """The rows of a batch as lists of what is read and what is written, without padding."""
    real = batch.attention[:, 0, 0]
    read = [ids[which].tolist() for ids, which in zip(batch.input_ids, real, strict=True)]
    return read, [[token for token in ids.tolist() if token != padding] for ids in batch.written]


def asked(task, samples, epoch=0):
    """The batch of these rows of the corpus in an epoch."""
    return task.batch(np.full(len(samples), epoch), np.array(samples))


def test_each_document_is_damaged_by_itself(objective, words):
    """No row mixes documents; every row ends, and is read from the token that its document begins with."""
    task = objective()
    batch = asked(task, range(len(task)))
    read, written = lines(batch, words.pad_token_id)
    assert len(read) == 5  # one of the four documents is in two pieces
    assert all(ids[-1] == words.sep_token_id for ids in (*read, *written))
    assert [ids[0] == words.cls_token_id for ids in read].count(True) == 4
    assert batch.count == sum(map(len, written))
    assert batch.tokens == batch.count + sum(map(len, read))


def test_what_is_damaged_depends_on_seed_epoch_and_sample_only(objective, words):
    """Not on the company of other rows; another epoch or seed damages something else."""
    task = objective()
    alone = [part for sample in range(len(task)) for part in zip(*lines(asked(task, [sample]), 0), strict=True)]
    assert alone == list(zip(*lines(asked(task, range(len(task))), 0), strict=True))
    for other in (asked(task, range(len(task)), epoch=1), asked(objective(1), range(len(task)))):
        assert alone != list(zip(*lines(other, 0), strict=True))


def test_documents_come_back_from_both_sides(objective, words):
    """Denoising writes the document itself; span corruption writes what the sentinels in what is read stand for."""
    task = objective()
    texts = {words.decode(ids, skip_special_tokens=True) for ids in words(TEXTS)["input_ids"]}
    read, written = lines(asked(task, range(len(task))), words.pad_token_id)
    sentinels = set(task.context.inputs.convert_tokens_to_ids(SENTINELS)) if isinstance(task, SpanCorruption) else set()
    found = []
    for source, target in zip(read, written, strict=True):
        hidden, last = {}, []
        for token in target[:-1]:
            if token in sentinels:
                hidden[token] = last = []
            else:
                last.append(token)
        whole = [t for token in source for t in hidden.get(token, [token])] if sentinels else target
        found.append(words.decode(whole, skip_special_tokens=True))
    whole = {text for text in found if text in texts}
    assert len(whole) == 3
    assert "".join(text for text in found if text not in texts).replace(" ", "") == "harbour" * 40


def test_sentinels_follow_the_tokenizers_own_tokens(words, tmp_path):
    """A hundred, numbered; a tokenizer that has them is left as it is."""
    words.save_pretrained(tmp_path / "tokenizer")
    first = SpanCorruption.inputs(tmp_path / "tokenizer")
    assert first.convert_tokens_to_ids(SENTINELS) == list(range(len(words), len(words) + 100))
    assert SpanCorruption.shape(first)["vocab_size"] == len(words) + 100
    first.save_pretrained(tmp_path / "again")
    assert len(SpanCorruption.inputs(tmp_path / "again")) == len(first)


def test_sentences_end_at_full_stops(words):
    """The tokens that end one are found in the vocabulary."""
    settings = Denoising.Settings(mask_rate=0.0, span_length=3.0, permute_sentences=True)
    task = Denoising(None, ObjectiveContext(words, LENGTH, 0, settings))
    assert {words.decode([token]).strip() for token in task.stops} >= {".", "!", "?"}
