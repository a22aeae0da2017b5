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


def pairs(batch, padding):
    """Sources and targets of a batch as lists, without padding."""
    real = batch.attention[:, 0, 0]
    sources = [ids[mask].tolist() for ids, mask in zip(batch.input_ids, real, strict=True)]
    return sources, [[token for token in ids.tolist() if token != padding] for ids in batch.target_ids]


def batch_of(task, samples, epoch=0):
    """The batch of these rows of the corpus in an epoch."""
    return task.batch(np.full(len(samples), epoch), np.array(samples))


def test_each_document_is_corrupted_by_itself(objective, words):
    """No row mixes documents; sources and targets have an end token, sources keep the document's first token."""
    task = objective()
    batch = batch_of(task, range(len(task)))
    sources, targets = pairs(batch, words.pad_token_id)
    assert len(sources) == 5  # one of the four documents is in two pieces
    assert all(ids[-1] == words.sep_token_id for ids in (*sources, *targets))
    assert [ids[0] == words.cls_token_id for ids in sources].count(True) == 4
    assert batch.count == sum(map(len, targets))
    assert batch.tokens == batch.count + sum(map(len, sources))


def test_the_corruption_depends_on_seed_epoch_and_sample_only(objective, words):
    """Not on the other rows of the batch; it changes with the epoch and the seed."""
    task = objective()
    alone = [part for sample in range(len(task)) for part in zip(*pairs(batch_of(task, [sample]), 0), strict=True)]
    assert alone == list(zip(*pairs(batch_of(task, range(len(task))), 0), strict=True))
    for other in (batch_of(task, range(len(task)), epoch=1), batch_of(objective(1), range(len(task)))):
        assert alone != list(zip(*pairs(other, 0), strict=True))


def test_documents_are_restored_from_sources_and_targets(objective, words):
    """The target of denoising is the document; that of span corruption holds the text of each sentinel."""
    task = objective()
    texts = {words.decode(ids, skip_special_tokens=True) for ids in words(TEXTS)["input_ids"]}
    sources, targets = pairs(batch_of(task, range(len(task))), words.pad_token_id)
    sentinels = set(task.context.inputs.convert_tokens_to_ids(SENTINELS)) if isinstance(task, SpanCorruption) else set()
    restored = []
    for source, target in zip(sources, targets, strict=True):
        hidden, last = {}, []
        for token in target[:-1]:
            if token in sentinels:
                hidden[token] = last = []
            else:
                last.append(token)
        whole = [t for token in source for t in hidden.get(token, [token])] if sentinels else target
        restored.append(words.decode(whole, skip_special_tokens=True))
    whole = {text for text in restored if text in texts}
    assert len(whole) == 3
    assert "".join(text for text in restored if text not in texts).replace(" ", "") == "harbour" * 40


def test_sentinels_follow_the_tokenizers_own_tokens(words, tmp_path):
    """A hundred, numbered; a tokenizer that has them stays as it is."""
    words.save_pretrained(tmp_path / "tokenizer")
    first = SpanCorruption.inputs(tmp_path / "tokenizer")
    assert first.convert_tokens_to_ids(SENTINELS) == list(range(len(words), len(words) + 100))
    assert SpanCorruption.shape(first)["vocab_size"] == len(words) + 100
    first.save_pretrained(tmp_path / "again")
    assert len(SpanCorruption.inputs(tmp_path / "again")) == len(first)


def test_sentences_end_at_full_stops(words):
    """The tokens that end a sentence come from the vocabulary."""
    settings = Denoising.Settings(mask_rate=0.0, span_length=3.0, permute_sentences=True)
    task = Denoising(None, ObjectiveContext(words, LENGTH, 0, settings))
    assert {words.decode([token]).strip() for token in task.stops} >= {".", "!", "?"}
