"""The running mean of a draft's weights, which is what is judged and written.

Single steps are noisy at a high learning rate; the mean over the last ones is about as good as
weights whose rate has fallen, at any time. Early on it forgets faster, so that it never lags by
more than a tenth of the training.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Generic, TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


class WeightAverage(Generic[M]):
    """The exponential moving average of a module's parameters.

    Args:
        module: whose parameters are averaged; the average begins as they are.
        decay: the share that the average keeps at every step once training is long, 0 to 1; with
            0 it is the module's weights themselves.
    """

    def __init__(self, module: M, decay: float) -> None:
        self._weights, self._decay = list(module.parameters()), decay
        shared = [value for value in vars(module).values() if isinstance(value, torch.Tensor)]
        self.module = deepcopy(module, {id(tensor): tensor for tensor in shared}).requires_grad_(
            False
        )
        """A module like the given one with the averaged weights; what is no weight, such as the
        target's embedding, both have together."""

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the weights after optimizer step number `step`, counted from 1."""
        keep = min(self._decay, (step - 1) / (step + 9))
        for mean, weight in zip(self.module.parameters(), self._weights, strict=True):
            mean.lerp_(weight, 1 - keep)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The averaged weights by their names."""
        return self.module.state_dict()

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Continues from the averaged weights of a checkpoint."""
        self.module.load_state_dict(state)
