"""Tiny models of every family that runs packed, with weights so large that attention is sharp."""

from __future__ import annotations

from copy import deepcopy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional

from pretune.data.loading.varlen import pack
from pretune.models import heads

WORDS = 90
SHAPE = {
    "vocab_size": WORDS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40,
    "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
TWO = {"num_key_value_heads": 2}
VARIANTS = {
    "bert": {},
    "roberta": {},
    "distilbert": {"hidden_dim": 40},
    "modernbert": {"global_attn_every_n_layers": 1},
    "modernbert-local": {"global_attn_every_n_layers": 2, "local_attention": 6},
    "gpt2": {},
    "llama": {},
    "llama-gqa": TWO,
    "mistral": TWO | {"sliding_window": None},
    "mistral-window": TWO | {"sliding_window": 4},
    "qwen2": {"num_key_value_heads": 4},
    "qwen2-window": TWO | {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    "qwen3": TWO | {"head_dim": 8},
    "smollm3": TWO,
    "gemma": TWO | {"head_dim": 8},
    "gemma3_text": TWO | {"head_dim": 8, "sliding_window": 4, "num_hidden_layers": 6},
    "glm4": TWO | {"head_dim": 8},
    "olmo2": TWO,
    "olmo3": TWO | {"sliding_window": 4, "num_hidden_layers": 4},
    "phi3": TWO,
    "phi3-window": TWO | {"sliding_window": 4},
    "starcoder2": TWO,
}
DROPOUT = ("hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout", "resid_pdrop", "embd_pdrop",
           "dropout", "seq_classif_dropout",
           "attn_pdrop", "embedding_dropout", "mlp_dropout", "classifier_dropout")  # fmt: skip


def build(variant, *, head=None, dropout=0.0, **extra):
    """A model of the variant with random weights, in eval mode."""
    import transformers

    family = variant.split("-", maxsplit=1)[0]
    positions = 1 if family == "roberta" else 0  # they start after the padding index
    shape = SHAPE | {"max_position_embeddings": 128 + positions} | VARIANTS[variant] | extra
    config = transformers.AutoConfig.for_model(family, **shape)
    for name in DROPOUT:
        if hasattr(config, name):
            setattr(config, name, dropout)
    head = head or ("MaskedLM" if family in heads.ENCODERS else "CausalLM")
    torch.manual_seed(0)
    model = getattr(transformers, f"AutoModelFor{head}").from_config(config, dtype=torch.float32)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
        else:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def other(family, head, **extra):
    """A model of any family with random weights, in eval mode."""
    import transformers

    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, **SHAPE | extra)
    return getattr(transformers, f"AutoModelFor{head}").from_config(config, dtype=torch.float32).eval()


def documents(lengths, seed=0):
    """Tokens of documents of these lengths, none of them special: a list of (length,)."""
    draw = np.random.default_rng(seed)
    return [torch.from_numpy(draw.integers(5, WORDS, size=length)) for length in lengths]


def together(texts):
    """The documents packed."""
    return pack(torch.cat(texts).numpy(), np.array([len(text) for text in texts]))


def states_alone(model, texts):
    """Last hidden states of each document by transformers' own forward: (tokens, hidden)."""
    return torch.cat([model.base_model(input_ids=text[None]).last_hidden_state[0] for text in texts])


def loss_alone(model, texts, positions, targets):
    """Sum of the cross entropies at `positions` of the documents one after the other, transformers' own logits."""
    logits = torch.cat([model(input_ids=text[None]).logits[0] for text in texts])
    return functional.cross_entropy(logits[positions], targets, reduction="sum")


def gradients(model, loss):
    """{name: gradient} of the loss, zero where there is none."""
    model.zero_grad()
    loss.backward()
    return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}


def assert_alike(actual, expected):
    """The same gradients up to rounding, relative to the largest of the tensor and a little to the largest of all."""
    assert actual.keys() == expected.keys()
    everywhere = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        error = float((actual[name] - gradient).abs().max())
        assert error <= 5e-5 * float(gradient.abs().max()) + 1e-6 * everywhere, name


@pytest.fixture(scope="session")
def small():
    """The functions that tests of packed models share, in a namespace."""
    made = {}

    def model(variant, **options):
        key = (variant, *sorted(options.items()))
        if key not in made:
            made[key] = build(variant, **options)
        return deepcopy(made[key])

    def pair(variant, **options):
        """The same model twice: prepared for packed sequences, and with transformers' own SDPA."""
        packed, own = model(variant, **options), model(variant, **options)
        heads.prepare(packed)
        own.set_attn_implementation("sdpa")
        return packed, own

    return SimpleNamespace(
        model=model, pair=pair, other=other, documents=documents, together=together, states_alone=states_alone,
        loss_alone=loss_alone, gradients=gradients, assert_alike=assert_alike, words=WORDS,
    )  # fmt: skip
