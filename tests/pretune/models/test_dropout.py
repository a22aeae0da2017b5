from __future__ import annotations

import pytest
import torch
from torch import nn

from pretune.models.dropout import Dropout, drop, use_fast_dropout


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_a_share_is_dropped_and_the_mean_stays(rate):
    """The share of zeros is the rate (within five standard deviations); the others are scaled by 1 / (1 - rate)."""
    torch.manual_seed(0)
    number = 200_001
    dropped = drop(torch.ones(number), rate)
    assert abs(float((dropped == 0).float().mean()) - rate) < 5 * (rate * (1 - rate) / number) ** 0.5
    assert dropped[dropped != 0].unique().tolist() == pytest.approx([1 / (1 - rate)], rel=1e-3)


def test_decisions_are_independent_of_their_neighbours():
    """Four decisions from one number are uncorrelated with the next ones (within five standard deviations)."""
    torch.manual_seed(0)
    kept = (drop(torch.ones(400_000), 0.5) > 0).double() - 0.5
    for distance in range(1, 5):
        correlation = float((kept[distance:] * kept[:-distance]).mean() * 4)
        assert abs(correlation) < 5 / len(kept) ** 0.5


def test_the_same_seed_drops_the_same():
    """The mask is a function of the generator's state; it applies to the gradient as well."""
    values = torch.ones(3, 5, 7, requires_grad=True)
    torch.manual_seed(1)
    first = drop(values, 0.3)
    torch.manual_seed(1)
    assert torch.equal(drop(values, 0.3), first)
    first.sum().backward()
    assert torch.equal(values.grad, first.detach())


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_nothing_or_everything_is_dropped(rate):
    """The ends of the range."""
    assert torch.equal(drop(torch.ones(9), rate), torch.full((9,), 1 - rate))


def test_a_model_drops_in_training_only():
    """Every nn.Dropout is replaced at any depth, with its rate and mode; in eval mode it does nothing."""
    model = nn.Sequential(nn.Linear(2, 2), nn.ModuleDict({"inner": nn.Dropout(0.25)})).eval()
    use_fast_dropout(model)
    replaced = model[1]["inner"]
    assert type(replaced) is Dropout
    assert replaced.p == 0.25
    assert torch.equal(replaced(torch.ones(50)), torch.ones(50))
    assert (replaced.train()(torch.ones(50)) == 0).any()
