"""The running mean of a draft's weights, which is what is judged and written.

Single steps are noisy at a high learning rate; the mean over the last ones is about as good as
weights whose rate has fallen, at any time. Early on it forgets faster, so that it never lags by
more than a tenth of the training.
"""

from collections.abc import Generator, Mapping
from contextlib import contextmanager

import torch
from torch import nn


class WeightAverage:
    """The exponential moving average of a module's parameters.

    Args:
        module: whose parameters are averaged; the average begins as they are.
        decay: the share that the average keeps at every step once training is long, 0 to 1; with
            0 it is the module's weights themselves.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._module, self._decay = module, decay
        self._mean = {name: weight.detach().clone() for name, weight in module.named_parameters()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the weights after optimizer step number `step`, counted from 1."""
        keep = min(self._decay, (step - 1) / (step + 9))
        for mean, weight in zip(self._mean.values(), self._module.parameters(), strict=True):
            mean.lerp_(weight.detach(), 1 - keep)

    @contextmanager
    def in_place(self) -> Generator[None, None, None]:
        """Within it the module has the averaged weights."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        """Contents move, tensors stay: the optimizer knows them."""
        for name, weight in self._module.named_parameters():
            held = weight.detach().clone()
            weight.copy_(self._mean[name])
            self._mean[name].copy_(held)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The averaged weights by their names."""
        return self._mean

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Continues from the averaged weights of a checkpoint."""
        for name, mean in self._mean.items():
            mean.copy_(state[name])
