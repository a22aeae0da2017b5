"""What a step costs, as told before it is taken."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pretune.data.loading import corpus
from pretune.models import build
from pretune.objectives.base import ObjectiveContext
from pretune.objectives.finetuning.classification import Classification
from pretune.objectives.pretraining.masked_lm import MaskedLM
from pretune.training import dataloader, loop, optimizer, parallel
from pretune.training.estimate import cost, memory_check

CPU = torch.device("cpu")
LABELS = ["kitchen", "sea"]


@pytest.fixture
def sequences(tmp_path, words):
    """A corpus of 40 rows of 16 tokens."""
    corpus.write(tmp_path, [[(row * 7 + place) % 300 + 4 for place in range(16)] for row in range(40)])
    return corpus.Sequences(tmp_path, 16, int(words.pad_token_id))


@pytest.fixture
def job(tiny, words, sequences, params):
    """A function from settings to a tiny model, what it learns, and how."""

    def make(family="modernbert", **settings):
        objective = MaskedLM(sequences, words, rate=0.3, seed=0)
        chosen = params.pretrain.model_copy(update={"batch_size": 8, "precision": "fp32"} | settings)
        return build.new(MaskedLM, tiny(family)), objective, chosen

    return make


def counted(model, objective, params, monkeypatch):
    """FLOPs of the first step, counted by torch while it is taken; without the optimizer's."""
    monkeypatch.setattr(optimizer, "step", lambda *_: None)
    learner = loop.Learner(model, objective, params, world=parallel.single_process(), strategy="ddp")
    order, parts = dataloader.EpochSampler(len(objective), params.batch_size, 0), params.gradient_accumulation_steps
    batches = next(dataloader.batches(objective, order, range(1), parts=parts, mine=range(parts)))
    with FlopCounterMode(display=False) as counter:
        learner.step(batches, 0.0)
    return counter.get_total_flops(), sum(batch.tokens for batch in batches)


@pytest.mark.parametrize("family", ["modernbert", "bert", "roberta"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_flops_and_tokens_are_those_of_a_real_step(job, family, precision, monkeypatch):
    """Counted without computing, to the last one."""
    model, objective, params = job(family, precision=precision)
    found = cost.estimate(model, objective, params, seed=0, device=CPU)
    assert (found.flops, found.tokens) == counted(model, objective, params, monkeypatch)


def test_flops_of_texts_are_those_of_a_real_step(tiny, words, params, monkeypatch):
    """Texts of different lengths, in buckets."""
    texts = [{"text": f"about {'salt ' * (row % 9)}", "label": LABELS[row % 2]} for row in range(40)]
    objective = Classification(texts, ObjectiveContext(words, 16, 0, None, LABELS))
    model = build.new(Classification, tiny(), LABELS)
    found = cost.estimate(model, objective, params.finetune, seed=0, device=CPU)
    assert (found.flops, found.tokens) == counted(model, objective, params.finetune, monkeypatch)


def test_what_is_computed_twice_or_in_parts_counts_once(job):
    """Model FLOPs: neither gradient_accumulation_steps nor gradient checkpointing changes them."""
    plain = cost.estimate(*job(), seed=0, device=CPU)
    for settings in ({"gradient_accumulation_steps": 4}, {"gradient_checkpointing": True}):
        found = cost.estimate(*job(**settings), seed=0, device=CPU)
        assert (found.flops, found.tokens) == (plain.flops, plain.tokens)


def test_parameters_are_those_of_the_model(job):
    """Shared ones count once."""
    model, *rest = job()
    assert cost.estimate(model, *rest, seed=0, device=CPU).parameters == model.num_parameters()


def test_an_estimate_leaves_model_and_chance_alone(job):
    """Weights, attention and the random numbers to come are what they were."""
    model, *rest = job(gradient_checkpointing=True)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    state, attention = torch.get_rng_state(), model.config._attn_implementation
    cost.estimate(model, *rest, seed=0, device=CPU)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.config._attn_implementation == attention
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
    assert not model.is_activation_checkpointing


def test_memory_shrinks_with_what_saves_it(job):
    """Parts of a step and activations computed twice both take less."""
    settings = [{}, {"gradient_accumulation_steps": 4}, {"gradient_checkpointing": True}]
    plain, parts, twice = (cost.estimate(*job(batch_size=32, **each), seed=0, device=CPU).memory for each in settings)
    assert parts < 0.6 * plain
    assert twice < 0.8 * plain


def test_adamw_keeps_two_numbers_for_a_weight_and_muon_one(job):
    """A checkpoint holds weights and state: 12 bytes for each parameter, less with Muon; the best are 4 more."""
    model, *_ = job()
    bytes_each = {
        key: cost.estimate(*job(optimizer=key[0], metric_for_best_model=key[1]), seed=0, device=CPU).snapshot
        / model.num_parameters()
        for key in (("adamw", "last"), ("muon", "last"), ("adamw", "loss"))
    }
    assert bytes_each["adamw", "last"] == pytest.approx(12, rel=0.02)
    assert 8 < bytes_each["muon", "last"] < 12
    assert bytes_each["adamw", "loss"] == pytest.approx(16, rel=0.02)


def test_fsdp_divides_what_lasts(job):
    """Weights, gradients and state of a process are a part; the layer at work is whole."""
    one, of_four = (
        cost.estimate(*job(batch_size=8), seed=0, device=CPU, processes=4, strategy=each).memory
        for each in ("ddp", "fsdp")
    )
    assert of_four < one


def test_a_processor_reaches_some_flops():
    """Measured in a tenth of a second: more than a calculator, less than a cluster."""
    assert 1e8 < cost.peak_flops(CPU, "fp32") < 1e15


MEASURE = """
import torch
from pretune.models import build
from pretune.objectives.pretraining.masked_lm import MaskedLM
from pretune.training import device, loop, memory, parallel
from pretune.training.estimate import cost
from pretune.data import tokenizer
from pretune.data.loading import corpus
from pretune.config.params import ModelParams, PretrainParams, load
from pathlib import Path
import numpy as np, sys
folder = Path(sys.argv[1])
device.prepare(0, 1)
words = tokenizer.train([f"number {row}" for row in range(400)], 400, 512)
corpus.write(folder, [[(row * 7 + place) % 300 + 4 for place in range(256)] for row in range(64)])
shape = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 256}
chosen = ModelParams(type="modernbert", init=None, config=shape)
model = build.new(MaskedLM, build.config_for(chosen, build.text_shape(words)))
objective = MaskedLM(corpus.Sequences(folder, 256, int(words.pad_token_id)), words, rate=0.3, seed=0)
settings = load(Path(sys.argv[2])).pretrain.model_copy(update={"batch_size": 32, "precision": "fp32"})
cpu = torch.device("cpu")
loop.train(model, objective, settings.model_copy(update={"batch_size": 1}), 1, seed=0, report=lambda _: None)
held = memory.held(cpu)
found = cost.estimate(model, objective, settings, seed=0, device=cpu)
loop.train(model, objective, settings, 4, seed=0, report=lambda _: None)
print(found.memory / 1e6, (memory.highest(cpu) - held) / 1e6)
"""


@pytest.mark.slow
def test_memory_is_what_the_operating_system_then_says(tmp_path, params_file, root):
    """Within 30 % of the growth of a process that trains, in one that does nothing else (docs/performance.md)."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path), str(params_file)],
        cwd=root, capture_output=True, text=True, check=True,
    )  # fmt: skip
    estimated, happened = map(float, done.stdout.split())
    assert estimated == pytest.approx(happened, rel=0.3)


@pytest.mark.parametrize("method", ["lora", "dora", "ia3", "head", "top"])
def test_what_an_adaptation_saves_is_foreseen(words, tiny, params, method):
    """Frozen weights have no state to keep; but for DoRA, which computes norms of whole matrices, memory falls too."""
    from pretune.adaptation import methods

    texts = [{"text": f"about {'salt ' * (row % 9)}", "label": LABELS[row % 2]} for row in range(40)]
    objective = Classification(texts, ObjectiveContext(words, 16, 0, None, LABELS))
    costs = []
    for chosen, settings in (("full", {}), (method, {"layers": 1} if method == "top" else {})):
        model = build.new(Classification, tiny("bert"), LABELS)
        methods.choose(chosen, settings).apply(model, frozenset(methods.head(model)))
        before = {name: each.detach().clone() for name, each in model.named_parameters()}
        costs.append(cost.estimate(model, objective, params.finetune, seed=0, device=torch.device("cpu")))
        assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
    assert costs[1].snapshot < costs[0].snapshot
    assert method == "dora" or costs[1].memory < costs[0].memory
    assert costs[1].flops > 0


def test_an_adapted_model_with_fewer_layers_can_be_priced(words, tiny):
    """What a refusal asks: adapters are where the layers that are left are."""
    from pretune.adaptation import methods

    model = build.new(Classification, tiny("bert"), LABELS)
    methods.choose("lora", {"r": 2}).apply(model, frozenset(methods.head(model)))
    smaller = memory_check._with_layers(model, 1)
    assert methods.trained(smaller) < methods.trained(model)
    assert {name for name, _ in smaller.named_parameters()} < {name for name, _ in model.named_parameters()}
