"""Embeddings learnt by contrast: what counts as a negative, what the loss is, how texts are ranked."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pretune.config.params import TrainingParams
from pretune.evaluation.metrics import ranking
from pretune.models import build, heads
from pretune.objectives import registry
from pretune.objectives.base import ObjectiveContext
from pretune.objectives.finetuning.embedding import Embedding, rank
from pretune.objectives.finetuning.table import OBJECTIVES
from pretune.objectives.predictions import Rankings
from pretune.objectives.pretraining.masked_lm import MaskedLM
from pretune.predictor.embedding import Vector, pool

ROWS = [
    {"text": "what floats", "pair": "a boat", "negatives": ["a stone", "an anvil"]},
    {"text": "what burns", "pair": "dry wood"},
    {"text": "what floats", "pair": "a cork"},
]


@pytest.fixture
def make(words):
    """A function that makes the objective on ROWS with these settings."""

    def build(**changes):
        settings = {"temperature": 0.5, "pooling": "mean", "mined_negatives": 0, "dimensions": []} | changes
        return Embedding(ROWS, ObjectiveContext(words, 16, 0, Embedding.Settings.model_validate(settings)))

    return build


def batch(objective, epoch=0, samples=(0, 1, 2)):
    """The batch of these samples in an epoch."""
    return objective.batch(np.full(len(samples), epoch), np.array(samples))


def test_what_belongs_to_a_text_in_another_row_is_no_negative(make):
    """Rows 0 and 2 ask the same: neither's pair counts against the other; a row's own pair is never hidden."""
    made = batch(make())
    assert made.own.tolist() == [0, 1, 2]
    assert made.hidden.tolist() == [
        [False, False, True, False],
        [False, False, False, False],
        [True, False, False, False],
    ]


def test_a_text_is_no_negative_of_itself(words):
    """Where it is the pair of another row too; its own similarity is 1, whatever is learnt."""
    settings = {"temperature": 0.5, "pooling": "mean", "mined_negatives": 0, "dimensions": []}
    context = ObjectiveContext(words, 16, 0, Embedding.Settings.model_validate(settings))
    rows = [{"text": "harbour", "pair": "salt"}, {"text": "salt", "pair": "waves"}]
    assert batch(Embedding(rows, context), samples=(0, 1)).hidden.tolist() == [[False, False], [True, False]]


def test_negatives_take_turns_over_the_epochs(make, words):
    """Each epoch has one negative of a row, a function of the epoch alone."""
    objective = make()
    seen = []
    for epoch in (0, 1, 2):
        made = batch(objective, epoch)
        seen.append(words.decode(made.packed.input_ids[made.packed.bounds[-2] :], skip_special_tokens=True).strip())
    assert seen == ["a stone", "an anvil", "a stone"]


def test_its_files_are_those_of_sentence_transformers(make, tiny):
    """Transformer, pooling as set, normalisation: what the predictor computes."""
    model = build.new(Embedding, tiny("bert"))
    for pooling, flag in (("mean", "mean_tokens"), ("first", "cls_token"), ("last", "lasttoken")):
        files = make(pooling=pooling).files(model)
        assert [module["type"].rpartition(".")[2] for module in files["modules.json"]] == [
            "Transformer",
            "Pooling",
            "Normalize",
        ]
        assert files["sentence_bert_config.json"]["max_seq_length"] == 16
        config = files["1_Pooling/config.json"]
        assert config.pop("word_embedding_dimension") == model.config.hidden_size
        assert [name for name, chosen in config.items() if chosen] == [f"pooling_mode_{flag}"]


def test_a_checkpoint_embeds_without_new_weights(tiny, words, tmp_path):
    """So it can be asked as it came, before any training."""
    build.save(build.new(MaskedLM, tiny("bert")), words, tmp_path / "checkpoint", {})
    assert Embedding.answers_untrained
    assert build.load(Embedding, tmp_path / "checkpoint", [])[1] == frozenset()


def test_mined_negatives_never_belong_to_the_text(make):
    """They are pairs of other texts, the likest first."""
    objective = make(mined_negatives=2)
    assert objective._negatives(1) == ["a boat", "a cork"] or objective._negatives(1) == ["a cork", "a boat"]
    assert objective._negatives(0) == ["a stone", "an anvil", "dry wood"]


def test_the_loss_is_the_mean_over_the_dimensions(make, monkeypatch):
    """Cross entropy of the cosine similarities over the temperature, for the whole vector and for its beginning."""
    objective = make(dimensions=[2], temperature=0.25)
    made = batch(objective)
    vectors = torch.randn(7, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    monkeypatch.setattr(heads, "embed", lambda *_: vectors)
    losses = []
    for size in (6, 2):
        unit = vectors[:, :size] / vectors[:, :size].norm(dim=1, keepdim=True)
        total = 0.0
        for row in range(3):
            scores = [
                math.exp(float(unit[row] @ unit[3 + other]) / 0.25) for other in range(4) if not made.hidden[row, other]
            ]
            total -= math.log(math.exp(float(unit[row] @ unit[3 + int(made.own[row])]) / 0.25) / sum(scores))
        losses.append(total)
    assert objective.loss(None, made).item() == pytest.approx(sum(losses) / 2)


def test_a_batch_that_would_be_divided_is_refused():
    """Its rows are compared with each other: parts would silently have fewer negatives."""
    training = {
        "objective": "embedding", "settings": {"temperature": 0.5, "pooling": "mean", "mined_negatives": 0,
                                               "dimensions": []},
        "batch_size": 8, "gradient_accumulation_steps": 2, "sequence_length": 16, "optimizer": "adamw",
        "learning_rate": 1e-3, "layer_decay": 1.0, "schedule": "linear", "warmup": 0.0, "weight_decay": 0.0,
        "gradient_clip": 1.0, "precision": "fp32", "gradient_checkpointing": False, "compile": False,
        "max_skipped_steps": 3, "ema_decay": 0.0, "evaluate_every": 0, "metric_for_best_model": "last", "patience": 0,
        "seed": None,
    }  # fmt: skip
    problems = registry.problems(OBJECTIVES, "finetune", TrainingParams(**training), "bert")
    assert len(problems) == 1
    assert "finetune.gradient_accumulation_steps: embedding compares the rows of a batch" in problems[0]


@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
def test_padding_does_not_reach_a_vector(pooling):
    """The pooled states of a row are those of its tokens, whatever stands at the padding."""
    states = torch.arange(24.0).view(2, 4, 3)
    real = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    expected = {"mean": states[1, :2].mean(dim=0), "first": states[1, 0], "last": states[1, 1]}
    torch.testing.assert_close(pool(states, real, pooling)[1], expected[pooling])


@given(
    ranks=st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=4, unique=True).map(sorted), min_size=2),
)
def test_ndcg_is_that_of_scikit_learn(ranks):
    """NDCG at 10 of each row, over 30 texts of which those at `ranks` belong."""
    from sklearn.metrics import ndcg_score

    metrics = ranking.rankings(Rankings([[""] for _ in ranks], ["" for _ in ranks], ranks))
    truth = np.array([[float(place in row) for place in range(1, 31)] for row in ranks])
    scores = np.tile(np.arange(30, 0, -1), (len(ranks), 1))
    measured = float(metrics["ndcg"].measure(np.ones((1, len(ranks))))[0])
    assert measured == pytest.approx(ndcg_score(truth, scores, k=10))


def test_equal_similarities_find_nothing():
    """A model that gives everything the same vector has its targets last."""
    found = rank(["q"], {"q": {"b"}}, ["a", "b", "c"], np.zeros((1, 3)))
    assert found.ranks == [[3]]
    assert rank(["q"], {"q": {"b"}}, ["a", "b", "c"], np.array([[0, 1, 0.5]])).ranks == [[1]]


def test_vectors_of_an_empty_list_are_none(words):
    """No texts, no vectors, no error."""
    assert Vector(None, words, {"length": 8, "pooling": "mean"})([]) == []
