"""The estimated cost of a step."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pretune.data.loading import corpus
from pretune.models import build
from pretune.objectives.base import ObjectiveContext
from pretune.objectives.finetuning.classification import Classification
from pretune.objectives.pretraining.masked_lm import MaskedLM
from pretune.training import dataloader, optimizer, parallel
from pretune.training.estimate import cost, memory_check
from pretune.training.learner import Learner

CPU = torch.device("cpu")
LABELS = ["kitchen", "sea"]


@pytest.fixture
def sequences(tmp_path, words):
    """A corpus of 40 rows of 16 tokens."""
    corpus.write(tmp_path, [[(row * 7 + place) % 300 + 4 for place in range(16)] for row in range(40)])
    return corpus.Sequences(tmp_path, 16, int(words.pad_token_id))


@pytest.fixture
def job(tiny, words, sequences, params):
    """A function from settings to a tiny model, its objective and its settings."""

    def make(family="modernbert", **settings):
        objective = MaskedLM(sequences, words, rate=0.3, seed=0)
        section = params.pretrain.model_copy(update={"batch_size": 8, "precision": "fp32"} | settings)
        return build.new(MaskedLM, tiny(family)), objective, section

    return make


def counted(model, objective, params, monkeypatch):
    """FLOPs of the first step, counted by torch during the step, without the optimizer's; and its tokens."""
    monkeypatch.setattr(optimizer, "step", lambda *_: None)
    learner = Learner(model, objective, params, world=parallel.single_process(), strategy="ddp")
    sampler, parts = dataloader.EpochSampler(len(objective), params.batch_size, 0), params.gradient_accumulation_steps
    batches = next(dataloader.batches(objective, sampler, range(1), parts=parts, mine=range(parts)))
    with FlopCounterMode(display=False) as counter:
        learner.step(batches, 0.0)
    return counter.get_total_flops(), sum(batch.tokens for batch in batches)


@pytest.mark.parametrize("family", ["modernbert", "bert", "roberta"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_flops_and_tokens_are_those_of_a_real_step(job, family, precision, monkeypatch):
    """Exactly, though nothing is computed."""
    model, objective, params = job(family, precision=precision)
    estimate = cost.estimate(model, objective, params, seed=0, device=CPU)
    assert (estimate.flops, estimate.tokens) == counted(model, objective, params, monkeypatch)


def test_flops_of_texts_are_those_of_a_real_step(tiny, words, params, monkeypatch):
    """For texts of different lengths."""
    texts = [{"text": f"about {'salt ' * (row % 9)}", "label": LABELS[row % 2]} for row in range(40)]
    objective = Classification(texts, ObjectiveContext(words, 16, 0, None, LABELS))
    model = build.new(Classification, tiny(), LABELS)
    estimate = cost.estimate(model, objective, params.finetune, seed=0, device=CPU)
    assert (estimate.flops, estimate.tokens) == counted(model, objective, params.finetune, monkeypatch)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_flops_with_adapters_are_those_of_a_real_step(tiny, words, params, monkeypatch, precision):
    """Training computes LoRA in another way than peft does. Matrices that bf16 holds count in their two bytes."""
    from pretune.adaptation import methods

    texts = [{"text": f"about {'salt ' * (row % 9)}", "label": LABELS[row % 2]} for row in range(40)]
    objective = Classification(texts, ObjectiveContext(words, 16, 0, None, LABELS))
    model = build.new(Classification, tiny("llama"), LABELS)
    model.load_state_dict({name: value.bfloat16().float() for name, value in model.state_dict().items()})
    methods.choose("lora", {"r": 2}).apply(model, frozenset(methods.head(model)))
    settings = params.finetune.model_copy(update={"precision": precision})
    batches = [objective.batch(np.zeros(4, dtype=int), np.arange(4))]
    weights = cost._SimulatedStep(model, objective, batches, settings, CPU).weights
    estimate = cost.estimate(model, objective, settings, seed=0, device=CPU)
    assert (estimate.flops, estimate.tokens) == counted(model, objective, settings, monkeypatch)
    assert weights == sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))


def test_recomputation_and_accumulation_do_not_change_flops(job):
    """FLOPs and tokens are the same with gradient accumulation and gradient checkpointing."""
    plain = cost.estimate(*job(), seed=0, device=CPU)
    for settings in ({"gradient_accumulation_steps": 4}, {"gradient_checkpointing": True}):
        estimate = cost.estimate(*job(**settings), seed=0, device=CPU)
        assert (estimate.flops, estimate.tokens) == (plain.flops, plain.tokens)


def test_parameters_are_those_of_the_model(job):
    """Shared ones count once."""
    model, *rest = job()
    assert cost.estimate(model, *rest, seed=0, device=CPU).parameters == model.num_parameters()


def test_an_estimate_changes_neither_model_nor_generators(job):
    """Weights, attention and the state of torch's generator stay."""
    model, *rest = job(gradient_checkpointing=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state, attention = torch.get_rng_state(), model.config._attn_implementation
    cost.estimate(model, *rest, seed=0, device=CPU)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.config._attn_implementation == attention
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model.is_activation_checkpointing


def test_accumulation_and_checkpointing_save_memory(job):
    """Each reduces the estimate."""
    settings = [{}, {"gradient_accumulation_steps": 4}, {"gradient_checkpointing": True}]
    plain, parts, twice = (
        cost.estimate(*job(batch_size=32, **changes), seed=0, device=CPU).memory for changes in settings
    )
    assert parts < 0.6 * plain
    assert twice < 0.8 * plain


def test_adamw_keeps_two_numbers_for_a_weight_and_muon_one(job):
    """A checkpoint has 12 bytes for each parameter, fewer with Muon; the best weights are 4 more."""
    model, *_ = job()
    bytes_per_parameter = {
        key: cost.estimate(*job(optimizer=key[0], metric_for_best_model=key[1]), seed=0, device=CPU).snapshot
        / model.num_parameters()
        for key in (("adamw", "last"), ("muon", "last"), ("adamw", "loss"))
    }
    assert bytes_per_parameter["adamw", "last"] == pytest.approx(12, rel=0.02)
    assert 8 < bytes_per_parameter["muon", "last"] < 12
    assert bytes_per_parameter["adamw", "loss"] == pytest.approx(16, rel=0.02)


def test_fsdp_shards_weights_gradients_and_state(job):
    """So a process needs less memory than with DDP."""
    one, of_four = (
        cost.estimate(*job(batch_size=8), seed=0, device=CPU, processes=4, strategy=strategy).memory
        for strategy in ("ddp", "fsdp")
    )
    assert of_four < one


def test_the_measured_peak_is_plausible():
    """In FLOP/s of a CPU."""
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
estimate = cost.estimate(model, objective, settings, seed=0, device=cpu)
loop.train(model, objective, settings, 4, seed=0, report=lambda _: None)
print(estimate.memory / 1e6, (memory.highest(cpu) - held) / 1e6)
"""


@pytest.mark.slow
def test_the_estimated_memory_is_close_to_that_of_the_operating_system(tmp_path, params_file, root):
    """Within 30 % of the growth of a process that only trains (docs/performance.md)."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path), str(params_file)],
        cwd=root, capture_output=True, text=True, check=True,
    )  # fmt: skip
    estimated, happened = map(float, done.stdout.split())
    assert estimated == pytest.approx(happened, rel=0.3)


@pytest.mark.parametrize("method", ["lora", "dora", "ia3", "head", "top"])
def test_adaptations_save_memory(words, tiny, params, method):
    """Frozen weights have no optimizer state. Except for DoRA, which computes norms of matrices, memory falls too."""
    from pretune.adaptation import methods

    texts = [{"text": f"about {'salt ' * (row % 9)}", "label": LABELS[row % 2]} for row in range(40)]
    objective = Classification(texts, ObjectiveContext(words, 16, 0, None, LABELS))
    costs = []
    for name, settings in (("full", {}), (method, {"layers": 1} if method == "top" else {})):
        model = build.new(Classification, tiny("bert"), LABELS)
        methods.choose(name, settings).apply(model, frozenset(methods.head(model)))
        before = {key: value.detach().clone() for key, value in model.named_parameters()}
        costs.append(cost.estimate(model, objective, params.finetune, seed=0, device=torch.device("cpu")))
        assert all(torch.equal(value, before[key]) for key, value in model.named_parameters())
    assert costs[1].snapshot < costs[0].snapshot
    assert method == "dora" or costs[1].memory < costs[0].memory
    assert costs[1].flops > 0


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_quantised_matrices_are_counted_in_the_bytes_that_they_take(words, tiny, params, kind):
    """Their weights count as parameters, those that stay in fp32 too; memory falls, the model stays as it was."""
    from pretune.adaptation import methods, quantization

    texts = [{"text": f"about {'salt ' * (row % 9)}", "label": LABELS[row % 2]} for row in range(40)]
    objective = Classification(texts, ObjectiveContext(words, 16, 0, None, LABELS))
    costs, weights = [], []
    batches = [objective.batch(np.zeros(4, dtype=int), np.arange(4))]
    for quantise in (False, True):
        model = build.new(Classification, tiny("bert"), LABELS)
        if quantise:
            quantization.quantize(model, kind)
        methods.choose("lora", {"r": 2}).apply(model, frozenset(methods.head(model)))
        costs.append(cost.estimate(model, objective, params.finetune, seed=0, device=torch.device("cpu")))
        weights.append(cost._SimulatedStep(model, objective, batches, params.finetune, torch.device("cpu")).weights)
        assert set(map(type, model.state_dict().values())) == {torch.Tensor}
    less = (
        (32 - (8 if kind == "int8" else 4.5))
        / 8
        * sum(m.in_features * m.out_features for m in model.modules() if isinstance(m, quantization.QuantizedLinear))
    )
    assert costs[0].parameters == costs[1].parameters
    assert costs[0].flops == costs[1].flops
    assert 0.7 * less < weights[0] - weights[1] <= less
    trained = sum(weight.nbytes for weight in model.parameters() if weight.requires_grad)
    assert (
        costs[0].snapshot == costs[1].snapshot >= 3 * trained
    )  # a checkpoint holds no frozen weights, but AdamW's state


def test_an_adapted_model_with_fewer_layers_keeps_its_adapters(words, tiny):
    """Those of the remaining layers; memory_check estimates such a model."""
    from pretune.adaptation import methods

    model = build.new(Classification, tiny("bert"), LABELS)
    methods.choose("lora", {"r": 2}).apply(model, frozenset(methods.head(model)))
    smaller = memory_check._with_layers(model, 1)
    assert methods.trained(smaller) < methods.trained(model)
    assert {name for name, _ in smaller.named_parameters()} < {name for name, _ in model.named_parameters()}
