"""Losses and gradients of preference objectives equal those of TRL's trainers, on the same model and rows."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from pretune.models import heads
from pretune.objectives.base import ObjectiveContext
from pretune.objectives.finetuning.dpo import Dpo
from pretune.objectives.finetuning.kto import Kto
from pretune.objectives.finetuning.orpo import Orpo
from pretune.objectives.finetuning.reward import Reward
from pretune.objectives.finetuning.simpo import Simpo

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # importing trl takes seconds
CHAT = {"template": None, "reply_tokens": 4}
WORDS = ["salt", "wave and tide", "oven", "flour or butter", "harbour"]
QUIET = {
    "report_to": "none",
    "use_cpu": True,
    "disable_tqdm": True,
    "bf16": False,
    "max_length": 64,
    "save_strategy": "no",
}
ROWS = [
    {
        "messages": [{"role": "user", "content": f"say {word}"}],
        "chosen": [{"role": "assistant", "content": word}],
        "rejected": [{"role": "assistant", "content": f"no {WORDS[number - 1]} today"}],
    }
    for number, word in enumerate(WORDS)
]
JUDGED = [
    {"messages": row["messages"] + row["rejected" if number % 2 else "chosen"], "desirable": number % 2 == 0}
    for number, row in enumerate(ROWS)
]


def model(words, seed, kind=LlamaForCausalLM):
    """A tiny model with weights of some size, so that no log-probability is that of a uniform guess."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_labels=1, pad_token_id=words.pad_token_id, initializer_range=0.3,
    )  # fmt: skip
    return kind(config).train()


@pytest.fixture
def trained(words, tmp_path):
    """The tokenizer, the model, the one it started from, and the two as TRL's trainers get them."""
    tokenizer = copy.deepcopy(words)
    return tokenizer, model(words, 0), model(words, 1), str(tmp_path)


def step(objective, own):
    """Our mean loss over all rows, and the gradients."""
    own = copy.deepcopy(own)
    heads.prepare(own)
    samples = np.arange(len(objective))
    batch = objective.batch(np.zeros_like(samples), samples)
    loss = objective.loss(own, batch) / batch.count
    loss.backward()
    return loss.detach(), gradients(own)


def gradients(own):
    """{name: gradient}."""
    return {name: weight.grad for name, weight in own.named_parameters()}


def theirs(trainer, own):
    """The loss of TRL's trainer on its own first batch, and the gradients."""
    batch = next(iter(torch.utils.data.DataLoader(
        trainer.train_dataset, batch_size=len(trainer.train_dataset), collate_fn=trainer.data_collator
    )))  # fmt: skip
    loss = trainer.compute_loss(own, batch)
    loss.backward()
    return loss.detach(), gradients(own)


def assert_same(one, other):
    """Loss and every gradient, up to rounding."""
    torch.testing.assert_close(one[0], other[0], rtol=1e-4, atol=1e-5)
    assert one[1].keys() == other[1].keys()
    for name, gradient in one[1].items():
        torch.testing.assert_close(gradient, other[1][name], rtol=1e-3, atol=1e-5, msg=name)


def dataset(rows, **columns):
    """Rows as TRL reads them; columns: its name: ours."""
    from datasets import Dataset

    return Dataset.from_list([{name: row[ours] for name, ours in columns.items()} for row in rows])


def context(tokenizer, kind, **settings):
    """The context of an objective."""
    return ObjectiveContext(tokenizer, 64, 0, kind.Settings.model_validate(settings))


def referenced(kind, rows, tokenizer, settings, reference):
    """The objective on rows with the log-probabilities under `reference`."""
    own = context(tokenizer, kind, **settings)
    values = kind(rows, own).log_probs(reference.eval()).tolist()
    return kind([row | {"reference": value} for row, value in zip(rows, values, strict=True)], own)


@pytest.mark.parametrize("loss", ["sigmoid", "ipo"])
def test_dpo(trained, loss):
    """Both losses, with the reference computed before training."""
    from trl import DPOConfig, DPOTrainer

    tokenizer, own, reference, folder = trained
    settings = CHAT | {"beta": 0.4, "label_smoothing": 0.0, "loss": loss}
    ours = step(referenced(Dpo, ROWS, tokenizer, settings, reference), own)
    config = DPOConfig(folder, beta=0.4, loss_type=[loss], **QUIET)
    rows = dataset(ROWS, prompt="messages", chosen="chosen", rejected="rejected")
    trainer = DPOTrainer(own, reference.eval(), config, train_dataset=rows, processing_class=tokenizer)
    assert_same(ours, theirs(trainer, trainer.model))


def test_label_smoothing_of_dpo_is_the_loss_on_pairs_of_which_some_are_swapped(words):
    """Of which share, `label_smoothing` says (conservative DPO)."""
    own, reference, losses = model(words, 0), model(words, 1), {}
    swapped = [row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in ROWS]
    for name, rows, smoothing in [("plain", ROWS, 0.0), ("swapped", swapped, 0.0), ("smooth", ROWS, 0.1)]:
        settings = CHAT | {"beta": 0.4, "label_smoothing": smoothing, "loss": "sigmoid"}
        losses[name] = step(referenced(Dpo, rows, copy.deepcopy(words), settings, reference), own)[0]
    torch.testing.assert_close(losses["smooth"], 0.9 * losses["plain"] + 0.1 * losses["swapped"])


def test_kto(trained):
    """With the divergence from the same mismatched pairs: each prompt with the answer to the one before it."""
    from trl import KTOConfig, KTOTrainer

    tokenizer, own, reference, folder = trained
    settings = CHAT | {"beta": 0.4, "desirable_weight": 1.5, "undesirable_weight": 1.0}
    ours = step(referenced(Kto, JUDGED, tokenizer, settings, reference), own)
    size = {"per_device_train_batch_size": len(JUDGED)}
    config = KTOConfig(folder, beta=0.4, desirable_weight=1.5, undesirable_weight=1.0, **size, **QUIET)
    judged = [{"prompt": row["messages"][:1], "answer": row["messages"][1:], **row} for row in JUDGED]
    rows = dataset(judged, prompt="prompt", completion="answer", label="desirable")
    trainer = KTOTrainer(own, reference.eval(), config, train_dataset=rows, processing_class=tokenizer)
    assert_same(ours, theirs(trainer, trainer.model))


def test_reward(trained):
    """The reward is read at the last token of each conversation."""
    from trl import RewardConfig, RewardTrainer

    tokenizer, _, _, folder = trained
    own = model(tokenizer, 0, LlamaForSequenceClassification)
    ours = step(Reward(ROWS, context(tokenizer, Reward, template=None)), own)
    rows = dataset(ROWS, prompt="messages", chosen="chosen", rejected="rejected")
    trainer = RewardTrainer(own, RewardConfig(folder, **QUIET), train_dataset=rows, processing_class=tokenizer)
    assert_same(ours, theirs(trainer, trainer.model))


def padded(objective):
    """All pairs as TRL's loss functions take them: ids, mask and labels (-100 before the answer), chosen first."""
    batch = objective.batch(np.zeros(len(objective), dtype=int), np.arange(len(objective)))
    rows = heads.padded(batch.packed, 0)
    labels = torch.full_like(batch.packed.input_ids, -100)
    labels[batch.positions + 1] = batch.targets
    full = torch.full_like(rows["input_ids"], -100)
    full[rows["attention_mask"].bool()] = labels
    return rows, full


def log_probs_like_trl(trainer, own, objective):
    """The mean log-probabilities of both answers by TRL's function: (2, pairs); and its likelihood loss of a pair."""
    rows, labels = padded(objective)
    logits = own(**rows).logits
    return trainer.get_batch_logps(logits, labels, average_log_prob=True).view(2, -1)


def test_simpo(trained):
    """By the loss functions of TRL's trainer for CPO, which holds SimPO."""
    from trl.experimental.cpo import CPOTrainer

    tokenizer, own, _, _ = trained
    objective = Simpo(ROWS, context(tokenizer, Simpo, **CHAT, beta=2.0, gamma=0.6))
    ours = step(objective, own)
    facts = {"beta": 2.0, "simpo_gamma": 0.6, "loss_type": "simpo", "label_smoothing": 0.0, "alpha": 0.0}
    trainer = SimpleNamespace(accelerator=SimpleNamespace(device="cpu"), **facts)
    losses, *_ = CPOTrainer.cpo_loss(trainer, *log_probs_like_trl(CPOTrainer, own, objective))
    losses.mean().backward()
    assert_same(ours, (losses.mean().detach(), gradients(own)))


def test_orpo(trained):
    """By the loss functions of TRL's trainer; the likelihood is of the answer only, as in the paper."""
    from trl.experimental.orpo import ORPOTrainer

    tokenizer, own, _, _ = trained
    objective = Orpo(ROWS, context(tokenizer, Orpo, **CHAT, beta=0.3))
    ours = step(objective, own)
    trainer = SimpleNamespace(accelerator=SimpleNamespace(device="cpu"), beta=0.3)
    log_probs = log_probs_like_trl(ORPOTrainer, own, objective)
    ratios, *_ = ORPOTrainer.odds_ratio_loss(trainer, *log_probs)
    loss = -log_probs[0].mean() - ratios.mean()
    loss.backward()
    assert_same(ours, (loss.detach(), gradients(own)))
