"""The running mean of weights."""

import torch
from torch import nn

from weights.train.fit.averaging import WeightAverage


def module(value: float) -> nn.Linear:
    linear = nn.Linear(1, 1, bias=False)
    nn.init.constant_(linear.weight, value)
    return linear


def test_it_follows_at_first_and_keeps_more_later() -> None:
    """By step s it keeps at most (s - 1) / (s + 9), and never more than its decay."""
    linear = module(5.0)
    average = WeightAverage(linear, 0.5)
    expected = 5.0
    for step in range(1, 31):
        nn.init.constant_(linear.weight, float(step))
        average.update(step)
        keep = min(0.5, (step - 1) / (step + 9))
        expected = keep * expected + (1 - keep) * step
        if step == 1:
            assert expected == 1.0, "what it began with is forgotten"
    torch.testing.assert_close(average.state_dict()["weight"], torch.tensor([[expected]]))
    assert linear.weight.item() == 30.0, "the weights that learn are left alone"


def test_without_decay_it_is_the_weights_themselves() -> None:
    linear = module(1.0)
    average = WeightAverage(linear, 0.0)
    nn.init.constant_(linear.weight, 7.0)
    average.update(100)
    assert average.state_dict()["weight"].item() == 7.0


def test_the_averaged_module_runs_and_shares_what_is_no_weight() -> None:
    linear = module(2.0)
    linear.table = torch.ones(1000)  # pyright: ignore[reportArgumentType]
    average = WeightAverage(linear, 0.9)
    assert average.module(torch.ones(1, 1)).item() == 2.0
    assert average.module.table is linear.table
    assert not average.module.weight.requires_grad
