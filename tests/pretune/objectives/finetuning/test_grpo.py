"""GRPO: what its gradient is, that completions repeat, and that the reward rises."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from pretune.errors import DataError
from pretune.models import heads
from pretune.objectives.base import ObjectiveContext
from pretune.objectives.finetuning.grpo import Grpo

ASKED = ["salt or butter?", "what is in the oven?", "how are the waves?", "number 7"]
ROWS = [{"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "salt"}]} for text in ASKED]
BEGINS = {"regex": {"weight": 1.0, "pattern": "[a-m].*"}}


@pytest.fixture
def make(words):
    """A function that makes the objective on rows, with other settings and another length."""

    def build(rows=ROWS, length=64, **changes):
        settings = {"template": None, "reply_tokens": 3, "completions": 8, "temperature": 1.0, "rewards": BEGINS}
        return Grpo(rows, ObjectiveContext(words, length, 0, Grpo.Settings.model_validate(settings | changes)))

    return build


@pytest.fixture
def model(words):
    """A tiny decoder with random weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        pad_token_id=words.pad_token_id, eos_token_id=words.sep_token_id, bos_token_id=words.cls_token_id,
    )  # fmt: skip
    made = LlamaForCausalLM(config)
    heads.prepare(made)
    return made


def batch(objective, epoch=0):
    """All prompts in an epoch."""
    samples = np.arange(len(objective))
    return objective.batch(np.full_like(samples, epoch), samples)


def test_completions_follow_from_weights_seed_and_epoch(make, model):
    """The same again, whatever the global generator holds and whatever shares the batch; others in another epoch."""
    objective = make()
    first = objective._complete(model, batch(objective))
    torch.manual_seed(7)
    assert objective._complete(model, batch(objective)) == first
    alone = objective._complete(model, objective.batch(np.zeros(1, dtype=int), np.array([2])))
    assert alone == first[16:24]
    assert objective._complete(model, batch(objective, epoch=1)) != first
    assert len({tuple(completion) for completion in first[:8]}) > 1


def test_draws_have_the_probabilities_of_the_model(make, model):
    """Of 4,000 first tokens each occurs as often as the softmax over the temperature says (chi-squared)."""
    from scipy.stats import chisquare

    objective = make(rows=ROWS[:1], completions=4000, reply_tokens=1, temperature=0.25)
    drawn = [tokens[0] for tokens in objective._complete(model, batch(objective))]
    with torch.no_grad():
        logits = model(torch.tensor([objective._ids[0]])).logits[0, -1]
    expected = 4000 * torch.softmax(logits.double() / 0.25, dim=-1).numpy()
    often = expected >= 5
    counts = np.bincount(drawn, minlength=len(expected))
    table = np.array([*counts[often], counts[~often].sum()]), np.array([*expected[often], expected[~often].sum()])
    assert chisquare(*table).pvalue > 1e-4


def test_the_gradient_is_that_of_the_paper(make, model):
    """Equation 3 with one step for each set of answers: advantages times mean log-probabilities, by plain autograd."""
    objective = make()
    made = batch(objective)
    completions = objective._complete(model, made)
    rewards = objective._rewards(made.samples.tolist(), completions)
    assert 0 < rewards.sum() < rewards.numel()
    advantages = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True, correction=0) + 1e-4)
    total = torch.zeros(())
    for number, completion in enumerate(completions):
        prompt = objective._ids[number // 8]
        logits = model(torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1]
        chosen = torch.log_softmax(logits, -1)[range(len(completion)), completion]
        total = total - advantages.flatten()[number] * chosen.mean()
    expected = torch.autograd.grad(total, list(model.parameters()))
    loss = objective.loss(model, made)
    assert loss.item() == pytest.approx(-float(rewards.sum()))
    for ours, theirs in zip(torch.autograd.grad(loss, list(model.parameters())), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_the_reward_rises(make, model):
    """Thirty steps on four prompts: answers that begin as asked, from about a sixth to nine of ten."""
    objective = make()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2, weight_decay=0.0)
    rewards = []
    for step in range(30):
        made = batch(objective, step)
        loss = objective.loss(model, made) / made.count
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        rewards.append(-loss.item())
    assert rewards[0] < 0.5
    assert np.mean(rewards[-5:]) > 0.9


def test_a_group_of_equal_rewards_teaches_nothing(make, model):
    """All right or all wrong: no gradient, and no division by zero."""
    objective = make(rewards={"regex": {"weight": 1.0, "pattern": "never"}})
    objective.loss(model, batch(objective)).backward()
    assert all(not weight.grad.any() for weight in model.parameters())


def test_prompts_without_room_for_an_answer_are_refused(make):
    """A prompt is never cut: the message says how many are too long."""
    with pytest.raises(DataError, match=r"4 of 4 prompts are longer than the 5 tokens"):
        make(length=8)
