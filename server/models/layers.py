"""The pieces of a transformer layer: linear and norm modules that load, then freeze.

A module is made with empty weights, filled through its `slots` (checkpoint name -> tensor to copy
into), and frozen: linear weights move to the machine's fastest layout and the plain ones go.
"""

from dataclasses import dataclass

import torch
from torch import nn

from server.kernels import dispatch as kernels
from server.kernels.dispatch import kernels_for
from server.kernels.linear import LinearFn
from server.kernels.quantized import Weight
from server.models.quantization import Quantization
from server.models.shard import WHOLE, Reduce, Shard

Slots = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where and in which precision a model's tensors live, and which part of them."""

    device: torch.device
    dtype: torch.dtype
    shard: Shard = WHOLE

    def empty(self, *shape: int) -> nn.Parameter:
        tensor = torch.empty(*shape, device=self.device, dtype=self.dtype)
        return nn.Parameter(tensor, requires_grad=False)


class RMSNorm(nn.Module):
    """Root-mean-square norm with a learned weight [dim]."""

    def __init__(self, dim: int, eps: float, placement: Placement) -> None:
        super().__init__()
        self.weight = placement.empty(dim)
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return kernels_for(x).rms_norm(x, self.weight.to(x.dtype), self.eps)

    def add(self, x: torch.Tensor, update: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x + update, and its norm."""
        return kernels_for(x).add_rms_norm(x, update, self.weight.to(x.dtype), self.eps)


class FusedLinear(nn.Module):
    """One matrix product for several of a checkpoint's projections of the same input.

    Args:
        parts: checkpoint name (without `.weight`) -> output features, in output order.
        reduce: where this rank has some of the inputs alone: completes its partial sum.
    """

    def __init__(
        self,
        in_features: int,
        parts: dict[str, int],
        bias: bool,
        placement: Placement,
        reduce: Reduce | None = None,
    ) -> None:
        super().__init__()
        self.parts = parts
        self.reduce = reduce
        out_features = sum(parts.values())
        self.weight: torch.Tensor | None = placement.empty(out_features, in_features)
        self.bias = placement.empty(out_features) if bias else None
        self.apply_linear: LinearFn | None = None

    def slots(self) -> Slots:
        """Checkpoint tensor names -> the rows of the fused tensors they fill."""
        if self.weight is None:
            raise RuntimeError("a frozen layer can't be loaded again")
        slots, start = Slots(), 0
        for name, rows in self.parts.items():
            slots[f"{name}.weight"] = self.weight.data[start : start + rows]
            if self.bias is not None:
                slots[f"{name}.bias"] = self.bias.data[start : start + rows]
            start += rows
        return slots

    def take_weight(self, quantization: Quantization | None = None) -> Weight:
        """The loaded weight [sum of the parts' features, in_features], which is forgotten here."""
        if self.weight is None:
            raise RuntimeError("the layer's weight has been taken already")
        weight, self.weight = self.weight.data, None
        if quantization is None:
            return weight
        return quantization.of([f"{name}.weight" for name in self.parts], weight)

    def freeze(self, quantization: Quantization | None = None) -> None:
        """Moves the loaded weight into the machine's layout."""
        dtype = None if self.weight is None else self.weight.dtype
        weight = self.take_weight(quantization)
        if self.reduce is None:
            self.apply_linear = kernels.linear(weight, self.bias, dtype)
        else:
            product = kernels.linear(weight, None, dtype)
            self.apply_linear = _reduced(product, self.reduce, self.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[rows, in_features] -> [rows, sum of the parts' features]"""
        if self.apply_linear is None:
            raise RuntimeError("freeze() the model after loading it")
        return self.apply_linear(x)


def _reduced(product: LinearFn, reduce: Reduce, bias: torch.Tensor | None) -> LinearFn:
    """Row-parallel: the bias is added once, to the sum."""

    def apply(x: torch.Tensor) -> torch.Tensor:
        whole = reduce(product(x))
        return whole if bias is None else whole + bias

    return apply
