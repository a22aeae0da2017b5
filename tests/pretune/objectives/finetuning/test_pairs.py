"""Pairs of texts: how they are encoded, and that models learn from both."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, processors

from pretune.config.params import ModelParams, TrainingParams
from pretune.models import build, heads
from pretune.objectives.base import ObjectiveContext
from pretune.objectives.finetuning.table import OBJECTIVES
from pretune.predictor.model import ANSWERS
from pretune.training import device, loop

FAMILIES = pytest.mark.parametrize("family", ["bert", "roberta", "modernbert"])
RATE_OR_CLASSIFY = ["classification", "binary", "multi_label", "regression"]
LABELS = ["other", "salt"]
SALT = [("salt", "salt")] * 3 + [("salt", "flour"), ("flour", "salt"), ("flour", "flour")]


def rows(numbers):
    """Pairs of which half have salt in both texts: from one text alone five of six can be predicted at best."""
    pairs = []
    for n in numbers:
        first, second = SALT[n % 6]
        both = first == second == "salt"
        pairs.append(
            {
                "text": f"{first} number {n * n}",
                "pair": f"about {second}",
                "label": LABELS[both],
                "labels": [LABELS[both]],
                "score": float(both),
            }
        )
    return pairs


def objective(name, words, numbers, length=32):
    """The objective on such rows."""
    return OBJECTIVES[name](rows(numbers), ObjectiveContext(words, length, 0, None, LABELS))


def model(name, words, family, **shape):
    """A small model for it, of random weights."""
    device.prepare(0, 1)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64} | shape
    shape |= {"global_attn_every_n_layers": 1} if family == "modernbert" else {}
    config = build.config_for(ModelParams(type=family, init=None, config=shape), build.text_shape(words))
    return build.new(OBJECTIVES[name], config, LABELS)


def sharp(network):
    """The model in eval mode, with weights so large that every token matters."""
    for parameter in network.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return network.eval()


def batch_of(task, numbers):
    """The batch of these samples."""
    return task.batch(np.zeros(len(numbers), dtype=np.int64), np.array(numbers))


def test_both_texts_are_between_separators_each_with_its_own_type(words):
    """[CLS] text [SEP] pair [SEP], of which pair and last separator are of type 1; packed without padding."""
    task = objective("classification", words, range(6))
    packed = batch_of(task, [4, 1]).packed
    for row, ids, types in zip(
        [task.rows[4], task.rows[1]],
        packed.input_ids.split(packed.lengths.tolist()),
        packed.token_type_ids.split(packed.lengths.tolist()),
        strict=True,
    ):
        first, second = (words(row[name], add_special_tokens=False)["input_ids"] for name in ("text", "pair"))
        assert ids.tolist() == [words.cls_token_id, *first, words.sep_token_id, *second, words.sep_token_id]
        assert types.tolist() == [0] * (len(first) + 2) + [1] * (len(second) + 1)


def test_of_two_long_texts_both_are_cut(words):
    """The longer one first, so that a part of each stays; no row exceeds the maximum length."""
    long = {"text": "salt " * 50, "pair": "flour", "label": "salt"}
    task = OBJECTIVES["classification"]([long], ObjectiveContext(words, 12, 0, None, LABELS))
    ids = task.texts[0].tolist()
    second = words("flour", add_special_tokens=False)["input_ids"]
    assert len(ids) == 12
    assert ids[-len(second) - 2 :] == [words.sep_token_id, *second, words.sep_token_id]


@FAMILIES
def test_logits_of_packed_pairs_are_those_of_the_predictor(words, family):
    """Training packs, the predictor pads: the logits are the same, with token types if the family has them."""
    network = sharp(model("classification", words, family))
    task = objective("classification", words, range(8))
    own = ANSWERS["class"](network, words, {"length": 32}).logits(task.rows)
    heads.prepare(network)
    with torch.no_grad():
        packed = heads.classify(network, batch_of(task, range(8)).packed)
        swapped = OBJECTIVES["classification"](
            [row | {"text": row["pair"], "pair": row["text"]} for row in task.rows], task.context
        )
        other = heads.classify(network, batch_of(swapped, range(8)).packed)
    torch.testing.assert_close(packed, own, rtol=1e-4, atol=1e-5)
    assert (other - packed).abs().max() > 1e-2


def test_a_roberta_as_published_has_separators_alone(words):
    """Two separators between the texts, and no token types."""
    backend = Tokenizer.from_str(words.backend_tokenizer.to_str())
    backend.post_processor = processors.RobertaProcessing(
        ("[SEP]", words.sep_token_id), ("[CLS]", words.cls_token_id), trim_offsets=True, add_prefix_space=False
    )
    words = type(words)(tokenizer_object=backend, model_max_length=64, **words.special_tokens_map)
    task = objective("classification", words, range(8))
    ids = task.texts[0].tolist()
    assert any(pair == (words.sep_token_id,) * 2 for pair in pairwise(ids))
    assert task.types is None
    network = sharp(model("classification", words, "roberta", type_vocab_size=1))
    own = ANSWERS["class"](network, words, {"length": 32}).logits(task.rows)
    heads.prepare(network)
    with torch.no_grad():
        torch.testing.assert_close(heads.classify(network, batch_of(task, range(8)).packed), own, rtol=1e-4, atol=1e-5)


def test_a_bert_uses_token_types(words):
    """Without them its logits differ."""
    network = sharp(model("classification", words, "bert"))
    task = objective("classification", words, range(8))
    packed = batch_of(task, range(8)).packed
    heads.prepare(network)
    with torch.no_grad():
        with_types, without = (
            heads.classify(network, batch) for batch in (packed, replace(packed, token_type_ids=None))
        )
    assert (with_types - without).abs().max() > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("name", RATE_OR_CLASSIFY)
def test_a_model_learns_from_both_texts(words, name):
    """More of the new pairs are predicted correctly than one text allows; a score counts by its side of 0.5."""
    task = objective(name, words, range(120))
    params = TrainingParams(
        objective=name, settings={}, batch_size=16, gradient_accumulation_steps=1, sequence_length=32,
        optimizer="adamw",
        learning_rate=3e-3, layer_decay=1.0, schedule="linear", warmup=0.1, weight_decay=0.01, gradient_clip=1.0,
        precision="fp32", gradient_checkpointing=False, compile=False, max_skipped_steps=3, ema_decay=0.0,
        evaluate_every=0,
        metric_for_best_model="last", patience=0, seed=None,
    )  # fmt: skip
    trained, _ = loop.train(model(name, words, "bert"), task, params, 100, seed=0, report=lambda _: None)
    predictions = objective(name, words, range(200, 260)).predict(trained)
    if name in {"classification", "binary"}:
        right = predictions.probabilities.argmax(axis=1) == predictions.targets
    elif name == "multi_label":
        right = (predictions.probabilities > 0.5)[:, 1] == predictions.targets[:, 1]
    else:
        right = (predictions.predicted > 0.5) == (predictions.targets > 0.5)
    assert right.mean() > 0.95
