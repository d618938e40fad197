"""The pieces of a transformer layer: norms, and the parameters of linear layers.

Parameters are made empty, and filled through `slots` (checkpoint name -> tensor to copy into).
`freeze` makes of them what runs: a product with the weight in the machine's fastest layout.
"""

from collections.abc import Container
from dataclasses import dataclass

import torch

from server.kernels import dispatch as kernels
from server.kernels.dispatch import kernels_for
from server.kernels.linear import LinearFn
from server.kernels.quantized import Weight
from server.models.quantization import Quantization
from server.models.shard import WHOLE, Reduce, Shard

Slots = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Placement:
    """The device and precision of a model's tensors, and the part of them that a rank holds."""

    device: torch.device
    dtype: torch.dtype
    shard: Shard = WHOLE

    def empty(self, *shape: int) -> torch.Tensor:
        return torch.empty(*shape, device=self.device, dtype=self.dtype)


class RMSNorm:
    """Root-mean-square norm with a learned weight [dim]."""

    def __init__(self, dim: int, eps: float, placement: Placement) -> None:
        self.weight = placement.empty(dim)
        self.eps = eps

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return kernels_for(x).rms_norm(x, self.weight.to(x.dtype), self.eps)

    def add(self, x: torch.Tensor, update: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x + update, and its norm."""
        return kernels_for(x).add_rms_norm(x, update, self.weight.to(x.dtype), self.eps)


class FusedLinear:
    """The parameters of one matrix product for several of a checkpoint's projections of the same
    input.

    Args:
        parts: checkpoint name (without `.weight`) -> output features, in output order.
        reduce: completes a partial sum, where this rank has only some of the inputs.
    """

    def __init__(
        self,
        in_features: int,
        parts: dict[str, int],
        bias: bool,
        placement: Placement,
        reduce: Reduce | None = None,
    ) -> None:
        self.parts = parts
        self.reduce = reduce
        out_features = sum(parts.values())
        self.weight = placement.empty(out_features, in_features)
        self.bias = placement.empty(out_features) if bias else None

    def slots(self) -> Slots:
        """Checkpoint tensor names -> the rows of the fused tensors they fill."""
        slots, start = Slots(), 0
        for name, rows in self.parts.items():
            slots[f"{name}.weight"] = self.weight[start : start + rows]
            if self.bias is not None:
                slots[f"{name}.bias"] = self.bias[start : start + rows]
            start += rows
        return slots

    def keep_in_blocks(self, names: Container[str]) -> None:
        """Gives the floats' memory back where all weights are kept in blocks."""
        if all(f"{name}.weight" in names for name in self.parts):
            self.weight = torch.empty_like(self.weight, device="meta")

    def weight_in(self, quantization: Quantization | None) -> Weight:
        """The weight [sum of the parts' features, in_features] in the form it is kept in."""
        if quantization is None:
            return self.weight
        parts = {f"{name}.weight": rows for name, rows in self.parts.items()}
        return quantization.of(parts, self.weight)

    def freeze(self, quantization: Quantization | None = None) -> LinearFn:
        """[rows, in_features] -> [rows, sum of the parts' features]"""
        weight, dtype = self.weight_in(quantization), self.weight.dtype
        if self.reduce is None:
            return kernels.linear(weight, self.bias, dtype)
        return _reduced(kernels.linear(weight, None, dtype), self.reduce, self.bias)


def _reduced(product: LinearFn, reduce: Reduce, bias: torch.Tensor | None) -> LinearFn:
    """A row-parallel product: the bias is added once, to the sum."""

    def apply(x: torch.Tensor) -> torch.Tensor:
        whole = reduce(product(x))
        return whole if bias is None else whole + bias

    return apply
