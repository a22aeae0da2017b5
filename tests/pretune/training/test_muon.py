from __future__ import annotations

import pytest
import torch

from pretune.training import device
from pretune.training.muon import Muon, orthogonal

COEFFICIENTS = (3.4445, -4.775, 2.0315)
SHAPES = [(8, 24), (24, 8), (16, 16)]


def stepped(kind, shapes, steps=3):
    """Matrices after some steps of an optimizer, the same gradients each time."""
    draw = torch.Generator().manual_seed(0)
    matrices = [torch.nn.Parameter(torch.randn(shape, generator=draw)) for shape in shapes]
    made = kind([{"params": matrices, "weight_decay": 0.1}], lr=0.02)
    for _ in range(steps):
        for matrix in matrices:
            matrix.grad = torch.randn(matrix.shape, generator=draw)
        made.step()
    return matrices


def of_torch(groups, lr):
    """PyTorch's own, with the settings that ours has."""
    return torch.optim.Muon(groups, lr=lr, adjust_lr_fn="match_rms_adamw")


def test_with_bf16_it_takes_the_same_steps_to_the_bit_as_torch(monkeypatch):
    """Where the processor has bf16, what was trained before comes out the same."""
    monkeypatch.setattr(device, "has_bf16", lambda _: True)
    for ours, theirs in zip(stepped(Muon, SHAPES), stepped(of_torch, SHAPES), strict=True):
        assert torch.equal(ours, theirs)


def test_without_bf16_it_takes_the_same_steps_but_for_rounding(monkeypatch):
    """In fp32 the steps are those of torch's, whose bf16 is 2**16 times coarser."""
    monkeypatch.setattr(device, "has_bf16", lambda _: False)
    for ours, theirs in zip(stepped(Muon, SHAPES), stepped(of_torch, SHAPES), strict=True):
        assert not torch.equal(ours, theirs)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-2)


@pytest.mark.parametrize("shape", SHAPES)
def test_an_orthogonal_matrix_has_the_directions_of_the_given_one(shape):
    """Singular vectors stay, singular values come near 1."""
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    found = orthogonal(matrix, COEFFICIENTS, 5, 1e-7)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    values = left.T @ found @ right.T
    assert values.diagonal().min() > 0.6
    assert values.diagonal().max() < 1.3
    assert (values - values.diagonal().diag()).abs().max() < 1e-4


def test_a_matrix_without_a_gradient_stays_as_it_is():
    """What is frozen, or had no part in the loss."""
    matrix = torch.nn.Parameter(torch.ones(2, 3))
    Muon([{"params": [matrix], "weight_decay": 0.1}], lr=0.1).step()
    assert torch.equal(matrix, torch.ones(2, 3))
