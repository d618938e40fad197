"""Weights in GGUF's blocks of 4 to 8 bits, and what they mean in floats.

A kind is one of GGUF's tensor types. Blocks are the file's own bytes, of 32 or 256 inputs each; the
native kernels multiply them as they are (`cpu/gguf_blocks.h`), and the gguf package tells what they
mean.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

QuantizedKind = Literal[
    "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "iq4_nl", "q4_k", "q5_k", "q6_k"
]  # fmt: skip
RoundedKind = Literal["q4_1", "q8_0"]
"""Kinds to which floats are rounded here."""
GROUP = 32
MAX_PARTS = 3
"""Weights of several kinds in one matrix."""
TYPES: dict[QuantizedKind, GGMLQuantizationType] = {
    "q4_0": GGMLQuantizationType.Q4_0,
    "q4_1": GGMLQuantizationType.Q4_1,
    "q5_0": GGMLQuantizationType.Q5_0,
    "q5_1": GGMLQuantizationType.Q5_1,
    "q8_0": GGMLQuantizationType.Q8_0,
    "iq4_nl": GGMLQuantizationType.IQ4_NL,
    "q4_k": GGMLQuantizationType.Q4_K,
    "q5_k": GGMLQuantizationType.Q5_K,
    "q6_k": GGMLQuantizationType.Q6_K,
}
BLOCK_INPUTS = {kind: GGML_QUANT_SIZES[type_][0] for kind, type_ in TYPES.items()}
BLOCK_BYTES = {kind: GGML_QUANT_SIZES[type_][1] for kind, type_ in TYPES.items()}


def bits_per_weight(kind: QuantizedKind) -> float:
    """Bits of memory that a weight takes, with its share of its block's scales and offsets."""
    return 8 * BLOCK_BYTES[kind] / BLOCK_INPUTS[kind]


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """A weight matrix [outputs, inputs] in blocks."""

    kind: QuantizedKind
    blocks: torch.Tensor
    """[outputs, inputs / inputs of a block * bytes of a block] uint8"""

    @property
    def shape(self) -> tuple[int, int]:
        outputs, row_bytes = self.blocks.shape
        return outputs, row_bytes // BLOCK_BYTES[self.kind] * BLOCK_INPUTS[self.kind]

    def __len__(self) -> int:
        return len(self.blocks)

    def rows(self, indices: torch.Tensor) -> "QuantizedWeight":
        """The listed outputs."""
        return QuantizedWeight(self.kind, self.blocks[indices])

    def dequantize(self) -> torch.Tensor:
        """[outputs, inputs] float32"""
        values = quants.dequantize(self.blocks.contiguous().numpy(), TYPES[self.kind])
        return torch.from_numpy(np.ascontiguousarray(values)).reshape(self.shape)


def can_stack(outputs: Sequence[int]) -> bool:
    """Whether weights of several kinds with so many outputs make one matrix: the native kernels
    take three, and 16 outputs at a time are of one kind."""
    return len(outputs) <= MAX_PARTS and not any(count % 16 for count in outputs[:-1])


@dataclass(frozen=True, slots=True)
class StackedWeight:
    """A weight matrix [outputs, inputs] of several kinds: the outputs of its parts one after
    another. A file that keeps `v` in more bits than `q` and `k` makes such of them."""

    parts: tuple[QuantizedWeight, ...]

    def __post_init__(self) -> None:
        outputs, kinds = list(map(len, self.parts)), {part.kind for part in self.parts}
        is_one = len({part.shape[1] for part in self.parts}) == 1
        if not can_stack(outputs) or not is_one or len(kinds) == 1:
            raise ValueError(f"parts of shapes {[part.shape for part in self.parts]}")

    @property
    def shape(self) -> tuple[int, int]:
        return len(self), self.parts[0].shape[1]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def dequantize(self) -> torch.Tensor:
        """[outputs, inputs] float32"""
        return torch.cat([part.dequantize() for part in self.parts])


BlockWeight = QuantizedWeight | StackedWeight
PartWeight = torch.Tensor | QuantizedWeight
"""[outputs, inputs], not put together: a head's, whose rows can be picked."""
Weight = torch.Tensor | BlockWeight
"""[outputs, inputs]"""


def quantize(weight: torch.Tensor, kind: RoundedKind) -> QuantizedWeight:
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


def concatenate(weights: Sequence[QuantizedWeight]) -> BlockWeight:
    """One weight with the outputs of all, one after another."""
    if len({weight.kind for weight in weights}) > 1:
        return StackedWeight(tuple(weights))
    return QuantizedWeight(weights[0].kind, torch.cat([weight.blocks for weight in weights]))


def side_by_side(weights: Sequence[Weight]) -> Weight | None:
    """One weight with the inputs of all, one after another, for the same outputs; None for an empty
    list. They must be all of floats or all of one kind of blocks."""
    if not weights:
        return None
    kinds = {kind for weight in weights for kind in _kinds(weight)}
    if len(kinds) != 1:
        raise ValueError(f"weights of {len(kinds)} kinds: {', '.join(sorted(kinds))}")
    quantized = [weight for weight in weights if isinstance(weight, QuantizedWeight)]
    if not quantized:
        return torch.cat([weight for weight in weights if isinstance(weight, torch.Tensor)], dim=1)
    blocks = torch.cat([weight.blocks for weight in quantized], dim=1)
    return QuantizedWeight(quantized[0].kind, blocks)


def _kinds(weight: Weight) -> list[str]:
    if isinstance(weight, StackedWeight):
        return [part.kind for part in weight.parts]
    return [weight.kind if isinstance(weight, QuantizedWeight) else "floats"]
