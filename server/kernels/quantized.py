"""Weights of 4 or 8 bits in GGUF's blocks of 32 inputs, and what they mean in floats.

Q4_1   scale, offset (half precision), 16 bytes: values 0 … 15 in the low halves, 16 … 31 in the
       high ones; weight = scale * value + offset
Q8_0   scale (half precision), 32 signed bytes; weight = scale * value
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

QuantizedKind = Literal["q4_1", "q8_0"]
GROUP = 32
BLOCK_BYTES: dict[QuantizedKind, int] = {"q4_1": 20, "q8_0": 34}


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """A weight matrix [outputs, inputs] in blocks."""

    kind: QuantizedKind
    blocks: torch.Tensor
    """[outputs, inputs / 32 * block bytes] uint8"""

    @property
    def shape(self) -> tuple[int, int]:
        outputs, row_bytes = self.blocks.shape
        return outputs, row_bytes // BLOCK_BYTES[self.kind] * GROUP

    def __len__(self) -> int:
        return len(self.blocks)

    def rows(self, indices: torch.Tensor) -> "QuantizedWeight":
        """The listed outputs."""
        return QuantizedWeight(self.kind, self.blocks[indices])

    def dequantize(self) -> torch.Tensor:
        """[outputs, inputs] float32"""
        outputs, inputs = self.shape
        blocks = self.blocks.reshape(-1, BLOCK_BYTES[self.kind])
        scale = _half(blocks[:, :2])
        if self.kind == "q8_0":
            weight = blocks[:, 2:].contiguous().view(torch.int8).float() * scale
        else:
            values = torch.cat((blocks[:, 4:] & 15, blocks[:, 4:] >> 4), dim=1)
            weight = values.float() * scale + _half(blocks[:, 2:4])
        return weight.reshape(outputs, inputs)


Weight = torch.Tensor | QuantizedWeight
"""[outputs, inputs]"""


def _half(two_bytes: torch.Tensor) -> torch.Tensor:
    """[n, 2] uint8 -> [n, 1] float32"""
    return two_bytes.contiguous().view(torch.float16).float()


def quantize(weight: torch.Tensor, kind: QuantizedKind) -> QuantizedWeight:
    """Rounds a weight [outputs, inputs] to the nearest values; inputs are a multiple of 32."""
    groups = weight.float().reshape(-1, GROUP)
    if kind == "q8_0":
        scale = (groups.abs().amax(dim=1, keepdim=True) / 127).half()
        values = (groups / _divisor(scale)).round().clamp(-127, 127).to(torch.int8)
        parts = (scale.view(torch.uint8), values.view(torch.uint8))
    else:
        low, high = groups.aminmax(dim=1, keepdim=True)
        offset, scale = low.half(), ((high - low) / 15).half()
        values = ((groups - offset.float()) / _divisor(scale)).round().clamp(0, 15).to(torch.uint8)
        parts = (
            scale.view(torch.uint8),
            offset.view(torch.uint8),
            values[:, :16] | values[:, 16:] << 4,
        )
    return QuantizedWeight(kind, torch.cat(parts, dim=1).reshape(len(weight), -1))


def _divisor(scale: torch.Tensor) -> torch.Tensor:
    """What weights are divided by: a group of equal weights has scale 0, and its values become
    0."""
    return torch.where(scale == 0, 1.0, scale.float())


def concatenate(weights: Sequence[QuantizedWeight]) -> QuantizedWeight:
    """One weight with the outputs of all, one after another; they must be of one kind."""
    kinds = {weight.kind for weight in weights}
    if len(kinds) != 1:
        raise ValueError(f"weights of {len(kinds)} kinds: {', '.join(sorted(kinds))}")
    return QuantizedWeight(weights[0].kind, torch.cat([weight.blocks for weight in weights]))


def side_by_side(weights: Sequence[Weight]) -> Weight | None:
    """One weight with the inputs of all, one after another, for the same outputs; None for an empty
    list. They must be all of floats or all of one kind of blocks."""
    if not weights:
        return None
    floats = [weight for weight in weights if isinstance(weight, torch.Tensor)]
    quantized = [weight for weight in weights if isinstance(weight, QuantizedWeight)]
    kinds = {weight.kind for weight in quantized} | {"floats" for _ in floats}
    if len(kinds) != 1:
        raise ValueError(f"weights of {len(kinds)} kinds: {', '.join(sorted(kinds))}")
    if floats:
        return torch.cat(floats, dim=1)
    return replace(quantized[0], blocks=torch.cat([weight.blocks for weight in quantized], dim=1))
