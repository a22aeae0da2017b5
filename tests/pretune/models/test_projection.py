from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from pretune.models.projection import CHUNK, projected_cross_entropy

HIDDEN, WORDS = 12, 50
ROWS = st.sampled_from([0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 1]) | st.integers(0, 3 * CHUNK)


def problem(rows, *, bias=True, seed=0):
    """States, weight, bias (or None) that want gradients, and targets."""
    torch.manual_seed(seed)
    states, weight = torch.randn(rows, HIDDEN, requires_grad=True), torch.randn(WORDS, HIDDEN, requires_grad=True)
    return [states, weight, torch.randn(WORDS, requires_grad=True) if bias else None], torch.randint(WORDS, (rows,))


def expected(inputs, targets):
    """The same with all logits at once."""
    return functional.cross_entropy(functional.linear(*inputs), targets, reduction="sum")


def gradients(loss, inputs):
    """Of what wants one."""
    return torch.autograd.grad(loss, [each for each in inputs if each is not None])


@given(ROWS, st.booleans(), st.floats(-3, 3))
def test_loss_and_gradients_are_those_of_all_logits_at_once(rows, bias, factor):
    """In chunks as in one piece, for any number of rows, scaled by whatever follows."""
    inputs, targets = problem(rows, bias=bias, seed=rows)
    found, right = projected_cross_entropy(*inputs, targets), expected(inputs, targets)
    torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-5)
    for one, other in zip(gradients(found * factor, inputs), gradients(right * factor, inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_gradients_are_true_slopes():
    """In double precision, against finite differences; the loss itself is kept in single."""
    inputs, targets = problem(CHUNK + 5)
    found = gradients(projected_cross_entropy(*inputs, targets), inputs)
    double = [each.detach().double() for each in inputs]
    for number, gradient in enumerate(found):
        direction = torch.randn_like(double[number])
        ends = []
        for sign in (-1e-5, 1e-5):
            moved = [each + sign * direction if place == number else each for place, each in enumerate(double)]
            ends.append(expected(moved, targets))
        slope = float((ends[1] - ends[0]) / 2e-5)
        assert float((gradient * direction).sum()) == pytest.approx(slope, rel=1e-4, abs=1e-3)


def test_a_perfect_prediction_costs_nothing_and_a_blind_one_the_logarithm():
    """Known values: zero states give log(vocabulary) a row, sure and right ones nearly zero."""
    targets = torch.arange(WORDS)
    blind = projected_cross_entropy(torch.zeros(WORDS, WORDS), torch.eye(WORDS), None, targets)
    assert float(blind) == pytest.approx(WORDS * torch.log(torch.tensor(float(WORDS))).item(), rel=1e-6)
    assert float(projected_cross_entropy(100 * torch.eye(WORDS), torch.eye(WORDS), None, targets)) < 1e-6


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [7, CHUNK + 9])
def test_half_precision_is_that_of_autocast(rows, bias):
    """Matrix products in bf16, the loss and what the parameters get in fp32, near the values of fp32."""
    inputs, targets = problem(rows, bias=bias)
    right = expected(inputs, targets)
    with torch.autocast("cpu", torch.bfloat16):
        found = projected_cross_entropy(*inputs, targets)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(right.item(), rel=5e-3)
    assert found.item() != projected_cross_entropy(*inputs, targets).item()  # it did compute in bf16
    for one, other in zip(gradients(found, inputs), gradients(right, inputs), strict=True):
        assert one.dtype == torch.float32
        assert float((one - other).norm() / other.norm()) < 0.02


def test_states_in_half_precision_get_gradients_in_half_precision():
    """As under autocast, where what comes from a matrix product is bf16 and weights are fp32."""
    (states, weight, bias), targets = problem(9)
    half = states.detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = projected_cross_entropy(half, weight, bias, targets)
    found = torch.autograd.grad(loss, [half, weight, bias])
    assert [each.dtype for each in found] == [torch.bfloat16, torch.float32, torch.float32]


@pytest.mark.parametrize("forbid", [torch.no_grad, torch.inference_mode])
def test_without_gradients_the_loss_is_the_same(forbid):
    """For validation: the value bit for bit, and nothing to go back through."""
    inputs, targets = problem(CHUNK + 3)
    loss = projected_cross_entropy(*inputs, targets)
    with forbid():
        alone = projected_cross_entropy(*inputs, targets)
    assert torch.equal(loss, alone)
    assert not alone.requires_grad


def test_the_logits_of_all_rows_never_exist_at_once(monkeypatch):
    """No product has more rows than a chunk."""
    seen = []
    own = functional.linear
    monkeypatch.setattr(functional, "linear", lambda x, *rest: seen.append(len(x)) or own(x, *rest))
    inputs, targets = problem(2 * CHUNK + 1)
    projected_cross_entropy(*inputs, targets)
    assert seen == [CHUNK, CHUNK, 1]
