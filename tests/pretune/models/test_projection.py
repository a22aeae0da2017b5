from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from pretune.models.projection import CHUNK, projected_cross_entropy, projected_log_probs

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
