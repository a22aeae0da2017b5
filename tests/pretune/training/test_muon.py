from __future__ import annotations

import pytest
import torch

from pretune.training import device
from pretune.training.muon import Muon, orthogonalize

COEFFICIENTS = (3.4445, -4.775, 2.0315)
SHAPES = [(8, 24), (24, 8), (16, 16)]


def stepped(optimizer_class, shapes, steps=3):
    """Matrices after some steps of an optimizer, with the same gradients in each call."""
    draw = torch.Generator().manual_seed(0)
    matrices = [torch.nn.Parameter(torch.randn(shape, generator=draw)) for shape in shapes]
    optimizer = optimizer_class([{"params": matrices, "weight_decay": 0.1}], lr=0.02)
    for _ in range(steps):
        for matrix in matrices:
            matrix.grad = torch.randn(matrix.shape, generator=draw)
        optimizer.step()
    return matrices


def of_torch(groups, lr):
    """PyTorch's own Muon with our settings."""
    return torch.optim.Muon(groups, lr=lr, adjust_lr_fn="match_rms_adamw")


def test_with_bf16_the_steps_are_bitwise_those_of_torch(monkeypatch):
    """So results on such a processor are those of torch's optimizer."""
    monkeypatch.setattr(device, "has_bf16", lambda _: True)
    for ours, theirs in zip(stepped(Muon, SHAPES), stepped(of_torch, SHAPES), strict=True):
        assert torch.equal(ours, theirs)


def test_without_bf16_the_steps_are_the_same_up_to_rounding(monkeypatch):
    """Torch's own computes in bf16, which is 2**16 times coarser."""
    monkeypatch.setattr(device, "has_bf16", lambda _: False)
    for ours, theirs in zip(stepped(Muon, SHAPES), stepped(of_torch, SHAPES), strict=True):
        assert not torch.equal(ours, theirs)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-2)


@pytest.mark.parametrize("shape", SHAPES)
def test_an_orthogonalized_matrix_has_the_singular_vectors_of_the_original(shape):
    """And its singular values are close to 1."""
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    result = orthogonalize(matrix, COEFFICIENTS, 5, 1e-7)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    values = left.T @ result @ right.T
    assert values.diagonal().min() > 0.6
    assert values.diagonal().max() < 1.3
    assert (values - values.diagonal().diag()).abs().max() < 1e-4


def test_a_matrix_without_a_gradient_stays_as_it_is():
    """Such as a frozen one."""
    matrix = torch.nn.Parameter(torch.ones(2, 3))
    Muon([{"params": [matrix], "weight_decay": 0.1}], lr=0.1).step()
    assert torch.equal(matrix, torch.ones(2, 3))
