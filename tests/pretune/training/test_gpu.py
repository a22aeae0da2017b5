"""On a GPU: determinism, no synchronisation within a step, flash attention."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoConfig

from pretune.config.params import ModelParams
from pretune.data.loading.varlen import pack
from pretune.models import build, heads
from pretune.objectives.base import ObjectiveContext
from pretune.objectives.finetuning.classification import Classification
from pretune.objectives.pretraining.causal_lm import CausalLM
from pretune.objectives.pretraining.masked_lm import MaskedLM
from pretune.training import device, loop, parallel
from pretune.training.learner import Learner

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
LABELS = ["kitchen", "sea"]
SHAPE = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
HEADS = {"qwen2": {"num_key_value_heads": 1}}  # two heads share keys and values
FAMILIES = {"masked": ["modernbert", "bert"], "causal": ["llama", "gpt2"], "labels": ["modernbert", "roberta"]}
TASKS = [(task, family) for task, families in FAMILIES.items() for family in families]


@pytest.fixture
def made(sequences, documents, words, params):
    """A function from task and family to model, objective and settings, without dropout and in bf16."""

    def make(task, family, dropout=0.0, **settings):
        device.prepare(0, 1)
        known = AutoConfig.for_model(family)
        rates = {name: dropout for name in vars(known) if name.endswith(("dropout", "pdrop", "_dropout_prob"))}
        shape = {name: size for name, size in SHAPE.items() if hasattr(known, name)}
        chosen = ModelParams(type=family, init=None, config=shape | rates)
        config = build.config_for(chosen, build.text_shape(words))
        if task == "labels":
            model = build.new(Classification, config, LABELS)
            objective = Classification(documents, ObjectiveContext(words, 32, 0, None, LABELS))
        elif task == "causal":
            model, objective = build.new(CausalLM, config), CausalLM(sequences)
        else:
            model, objective = build.new(MaskedLM, config), MaskedLM(sequences, words, rate=0.3, seed=0)
        plain = {
            "batch_size": 16,
            "gradient_accumulation_steps": 2,
            "learning_rate": 3e-3,
            "precision": "bf16",
            "evaluate_every": 0,
            "metric_for_best_model": "last",
        }
        return model, objective, params.finetune.model_copy(update=plain | settings)

    return make


def weights(made, task, family, **settings):
    """The weights after twelve steps, and the losses."""
    model, objective, chosen = made(task, family, **settings)
    model, state = loop.train(model, objective, chosen, 12, seed=0, report=lambda _: None)
    return {name: value.cpu() for name, value in model.state_dict().items()}, [record.loss for record in state.records]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize(("task", "family"), TASKS)
def test_two_identical_runs_give_identical_weights(made, task, family, dropout, optimizer):
    """With flash attention (no dropout) and without; both optimizers."""
    (first, losses), (second, again) = (
        weights(made, task, family, dropout=dropout, optimizer=optimizer) for _ in range(2)
    )
    assert losses == again
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize(("task", "family"), TASKS)
def test_a_gpu_learns_what_a_cpu_learns(made, monkeypatch, task, family):
    """The same losses in fp32, over twelve steps from the same weights on the same rows."""
    _, losses = weights(made, task, family, precision="fp32", optimizer="adamw")
    monkeypatch.setattr(device, "choose", lambda: torch.device("cpu"))
    _, expected = weights(made, task, family, precision="fp32", optimizer="adamw")
    assert losses == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("task", "family"), TASKS)
def test_a_step_does_not_synchronise(made, task, family):
    """The host prepares the next step while the device computes this one."""
    model, objective, chosen = made(task, family, optimizer="adamw")
    learner = Learner(model.to("cuda"), objective, chosen, world=parallel.single_process(), strategy="ddp")
    batches = [objective.batch(np.zeros(8, dtype=np.int64), np.arange(start, start + 8)) for start in (0, 8)]
    learner.step(batches, 1e-3)
    torch.cuda.set_sync_debug_mode("error")
    try:
        learner.step(batches, 1e-3)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert learner.read_tally()[1] == 2


@pytest.mark.parametrize("family", ["bert", "modernbert", "llama", "gpt2", "qwen2"])
def test_packed_sequences_have_the_states_that_they_have_alone(family):
    """Flash attention stays within a document, and in modernbert within its window."""
    config = AutoConfig.for_model(
        family, vocab_size=100, pad_token_id=0, max_position_embeddings=400, **SHAPE | HEADS.get(family, {})
    )
    device.prepare(0, 1)
    model = build.new(MaskedLM if family in heads.ENCODERS else CausalLM, config).to("cuda").eval()
    heads.prepare(model)
    draw = np.random.default_rng(0)
    texts = [draw.integers(1, 100, size) for size in (7, 300, 1, 150)]

    def states(*parts):
        packed = pack(np.concatenate(parts), np.array([len(text) for text in parts]))
        return heads.states(model, packed.to(torch.device("cuda")))

    with torch.no_grad():
        precise = torch.cat([states(text) for text in texts])
        with torch.autocast("cuda", torch.bfloat16):
            together, alone = states(*texts), torch.cat([states(text) for text in texts])
    scale = precise.abs().mean()
    assert (together - alone).abs().max() < 0.05 * scale
    assert (together - precise).abs().mean() < 0.05 * scale
