from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from pretune.models.projection import (
    CHUNK,
    projected_cross_entropy,
    projected_distillation,
    projected_log_probs,
    projected_top,
)

HIDDEN, WORDS = 12, 50
ROWS = st.sampled_from([0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 1]) | st.integers(0, 3 * CHUNK)


def problem(rows, *, bias=True, seed=0):
    """States, weight, bias (or None) that require gradients, and targets."""
    torch.manual_seed(seed)
    states, weight = torch.randn(rows, HIDDEN, requires_grad=True), torch.randn(WORDS, HIDDEN, requires_grad=True)
    return [states, weight, torch.randn(WORDS, requires_grad=True) if bias else None], torch.randint(WORDS, (rows,))


def all_at_once(inputs, targets):
    """The loss with all logits at once."""
    return functional.cross_entropy(functional.linear(*inputs), targets, reduction="sum")


def gradients(loss, inputs):
    """The gradients of all inputs but a missing bias."""
    return torch.autograd.grad(loss, [tensor for tensor in inputs if tensor is not None])


@given(ROWS, st.booleans(), st.floats(-3, 3))
def test_loss_and_gradients_are_those_of_all_logits_at_once(rows, bias, factor):
    """For any number of rows, also with an upstream gradient."""
    inputs, targets = problem(rows, bias=bias, seed=rows)
    loss, expected = projected_cross_entropy(*inputs, targets), all_at_once(inputs, targets)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    for one, other in zip(gradients(loss * factor, inputs), gradients(expected * factor, inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@given(ROWS, st.booleans())
def test_factors_weigh_each_row(rows, bias):
    """In the loss and in every gradient; 0 leaves a row out."""
    inputs, targets = problem(rows, bias=bias, seed=rows)
    factors = torch.rand(rows).mul(2).where(torch.arange(rows) % 3 > 0, 0.0)
    loss = projected_cross_entropy(*inputs, targets, factors)
    expected = functional.cross_entropy(functional.linear(*inputs), targets, reduction="none") @ factors
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    for one, other in zip(gradients(loss, inputs), gradients(expected, inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@given(ROWS, st.booleans())
def test_log_probabilities_have_a_gradient_for_each_row(rows, bias):
    """For any number of rows and any upstream gradients they are those of all logits at once."""
    inputs, targets = problem(rows, bias=bias, seed=rows)
    factors = torch.randn(rows)
    computed = projected_log_probs(*inputs, targets)
    expected = -functional.cross_entropy(functional.linear(*inputs), targets, reduction="none")
    torch.testing.assert_close(computed, expected, rtol=1e-5, atol=1e-5)
    both = [gradients((values * factors).sum(), inputs) for values in (computed, expected)]
    for one, other in zip(*both, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_gradients_match_finite_differences():
    """Those of the loss with all logits at once, in double precision."""
    inputs, targets = problem(CHUNK + 5)
    computed = gradients(projected_cross_entropy(*inputs, targets), inputs)
    double = [tensor.detach().double() for tensor in inputs]
    for number, gradient in enumerate(computed):
        direction = torch.randn_like(double[number])
        ends = []
        for sign in (-1e-5, 1e-5):
            moved = [tensor + sign * direction if index == number else tensor for index, tensor in enumerate(double)]
            ends.append(all_at_once(moved, targets))
        slope = float((ends[1] - ends[0]) / 2e-5)
        assert float((gradient * direction).sum()) == pytest.approx(slope, rel=1e-4, abs=1e-3)


def test_the_loss_is_zero_for_perfect_and_the_logarithm_for_uniform_predictions():
    """Known values: log(vocabulary) a row for zero states, almost zero for confident and correct ones."""
    targets = torch.arange(WORDS)
    uniform = projected_cross_entropy(torch.zeros(WORDS, WORDS), torch.eye(WORDS), None, targets)
    assert float(uniform) == pytest.approx(WORDS * torch.log(torch.tensor(float(WORDS))).item(), rel=1e-6)
    assert float(projected_cross_entropy(100 * torch.eye(WORDS), torch.eye(WORDS), None, targets)) < 1e-6


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [7, CHUNK + 9])
def test_half_precision_is_that_of_autocast(rows, bias):
    """Matrix products are in bf16, loss and gradients in fp32, close to those in fp32."""
    inputs, targets = problem(rows, bias=bias)
    expected = all_at_once(inputs, targets)
    with torch.autocast("cpu", torch.bfloat16):
        loss = projected_cross_entropy(*inputs, targets)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=5e-3)
    assert loss.item() != projected_cross_entropy(*inputs, targets).item()  # it was computed in bf16
    for one, other in zip(gradients(loss, inputs), gradients(expected, inputs), strict=True):
        assert one.dtype == torch.float32
        assert float((one - other).norm() / other.norm()) < 0.02


def test_states_in_half_precision_get_gradients_in_half_precision():
    """As under autocast, where activations are bf16 and weights are fp32."""
    (states, weight, bias), targets = problem(9)
    half = states.detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = projected_cross_entropy(half, weight, bias, targets)
    computed = torch.autograd.grad(loss, [half, weight, bias])
    assert [gradient.dtype for gradient in computed] == [torch.bfloat16, torch.float32, torch.float32]


@pytest.mark.parametrize("forbid", [torch.no_grad, torch.inference_mode])
def test_without_gradients_the_loss_is_the_same(forbid):
    """As in validation: the value bit for bit, and no graph."""
    inputs, targets = problem(CHUNK + 3)
    loss = projected_cross_entropy(*inputs, targets)
    with forbid():
        alone = projected_cross_entropy(*inputs, targets)
    assert torch.equal(loss, alone)
    assert not alone.requires_grad


def test_the_logits_of_all_rows_never_exist_at_once(monkeypatch):
    """No matrix product has more rows than a chunk."""
    seen = []
    own = functional.linear
    monkeypatch.setattr(functional, "linear", lambda x, *rest: seen.append(len(x)) or own(x, *rest))
    inputs, targets = problem(2 * CHUNK + 1)
    projected_cross_entropy(*inputs, targets)
    assert seen == [CHUNK, CHUNK, 1]


def test_a_frozen_weight_gets_no_gradient_and_changes_none():
    """As below adapters: the states have the gradient that they have with a trained weight."""
    inputs, targets = problem(CHUNK + 9)
    (expected,) = torch.autograd.grad(projected_cross_entropy(*inputs, targets), inputs[:1])
    frozen = [inputs[0], inputs[1].detach(), inputs[2].detach()]
    loss = projected_cross_entropy(*frozen, targets)
    assert loss.grad_fn.saved_tensors[1:] == (None, None)
    assert torch.equal(torch.autograd.grad(loss, frozen[:1])[0], expected)


def taught(inputs, teacher, targets, temperature):
    """Cross entropy and divergence of each row by plain autograd, all logits at once; the rest is one class."""
    logits, (ids, log_probs) = functional.linear(*inputs), teacher
    log_q = torch.log_softmax(logits, dim=-1)
    beyond = 1 - log_q.exp().gather(1, ids).sum(1, keepdim=True)
    classes = torch.cat([log_q.gather(1, ids), beyond.clamp(min=1e-30).log()], dim=1)
    if ids.shape[1] == WORDS:
        classes, log_probs = classes[:, :-1], log_probs[:, :-1]
    p, q = (torch.log_softmax(values / temperature, dim=-1) for values in (log_probs, classes))
    divergence = functional.kl_div(q, p, reduction="none", log_target=True).sum(1)
    return torch.stack([functional.cross_entropy(logits, targets, reduction="none"), divergence])


@given(ROWS, st.booleans(), st.sampled_from([1, 7, WORDS]), st.floats(0, 1), st.sampled_from([0.5, 1, 4]))
def test_distillation_is_the_mixture_of_both_losses(rows, bias, top, share, temperature):
    """In the values and in every gradient, for any `top`; without a projection, for logits as they are."""
    inputs, targets = problem(rows, bias=bias, seed=rows)
    teacher = projected_top(*problem(rows, bias=bias, seed=rows + 1)[0], top, WORDS)
    factors = torch.rand(rows)
    expected = taught(inputs, teacher, targets, temperature) @ factors
    given = inputs if rows % 2 else [functional.linear(*inputs), None, None]
    loss, *alone = projected_distillation(
        *given, targets, teacher, share=share, temperature=temperature, factors=factors
    )
    torch.testing.assert_close(torch.stack(alone), expected, rtol=1e-4, atol=1e-4)
    mixed = (1 - share) * expected[0] + share * temperature**2 * expected[1]
    torch.testing.assert_close(loss, mixed, rtol=1e-4, atol=1e-4)
    for one, other in zip(gradients(2 * loss, inputs), gradients(2 * mixed, inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-4)
    assert not any(values.requires_grad for values in (*alone, *teacher))


@given(st.sampled_from([1, 9, WORDS]), st.sampled_from([WORDS - 3, WORDS]))
def test_the_likeliest_tokens_and_the_rest_are_a_distribution(top, vocabulary):
    """Of the tokens that the tokenizer has; with all of them none is left, and a teacher learns nothing from itself."""
    inputs, targets = problem(CHUNK + 2)
    top = min(top, vocabulary)
    ids, log_probs = projected_top(*inputs, top, vocabulary)
    exact = torch.log_softmax(functional.linear(*inputs)[:, :vocabulary], dim=-1)
    torch.testing.assert_close(log_probs[:, :-1], exact.sort(descending=True).values[:, :top])
    torch.testing.assert_close(log_probs.exp().sum(1), torch.ones(len(ids)))
    assert bool(log_probs[:, -1].isinf().all()) == (top == vocabulary)
    if vocabulary == WORDS:
        loss, _, divergence = projected_distillation(*inputs, targets, (ids, log_probs), share=1.0, temperature=2.0)
        assert abs(float(divergence)) < 1e-3
        assert all(float(gradient.abs().max()) < 1e-4 for gradient in gradients(loss, inputs))
