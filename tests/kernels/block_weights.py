"""Weights in blocks of every kind: random bytes with sane scales, and bytes at their extremes.

The gguf package does not quantise to K-quants, and random integers use the whole range anyway.
"""

import torch

from server.kernels.quantized import (
    BLOCK_BYTES,
    BLOCK_INPUTS,
    TYPES,
    QuantizedKind,
    QuantizedWeight,
)

ALL_KINDS: tuple[QuantizedKind, ...] = tuple(TYPES)
HALVES: dict[QuantizedKind, tuple[int, ...]] = {
    "q4_1": (0, 2), "q5_1": (0, 2), "q4_k": (0, 2), "q5_k": (0, 2), "q6_k": (208,),
}  # fmt: skip
"""Where in a block its half-precision numbers are; elsewhere one at the beginning."""
LARGEST: dict[QuantizedKind, int] = {
    "q4_0": 8, "q4_1": 15, "q5_0": 16, "q5_1": 31, "q8_0": 128, "iq4_nl": 127, "q4_k": 63 * 15,
    "q5_k": 63 * 31, "q6_k": 128 * 32,
}  # fmt: skip
"""Absolute values of what a scale is multiplied with."""


def of_bytes(kind: QuantizedKind, outputs: int, blocks: torch.Tensor, seed: int) -> QuantizedWeight:
    """blocks: [outputs * blocks of a row, bytes of a block] uint8, whose scales are overwritten so
    that the largest weights are from 0.2 to 4."""
    generator = torch.Generator().manual_seed(seed)
    for place in HALVES.get(kind, (0,)):
        drawn = torch.rand(len(blocks), 1, generator=generator)
        half = ((0.2 + 3.8 * drawn**3) / LARGEST[kind]).half()
        blocks[:, place : place + 2] = half.view(torch.uint8)
    return QuantizedWeight(kind, blocks.reshape(outputs, -1))


def random_blocks(kind: QuantizedKind, outputs: int, inputs: int, seed: int = 0) -> QuantizedWeight:
    """[outputs, inputs] of random integers; inputs are a multiple of the kind's block."""
    num_blocks = outputs * inputs // BLOCK_INPUTS[kind]
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(256, (num_blocks, BLOCK_BYTES[kind]), generator=generator)
    return of_bytes(kind, outputs, drawn.to(torch.uint8), seed)


def extreme_blocks(kind: QuantizedKind) -> list[QuantizedWeight]:
    """[3, inputs of a block] each: all bits clear, all set, and with Q6_K's signed scales at either
    end."""
    fills = [(byte, byte) for byte in (0x00, 0xFF, 0x7F, 0x80)]
    if kind == "q6_k":
        fills += [(byte, scale) for byte in (0x00, 0xFF) for scale in (0x7F, 0x80)]
    weights = list[QuantizedWeight]()
    for byte, scale in fills:
        blocks = torch.full((3, BLOCK_BYTES[kind]), byte, dtype=torch.uint8)
        if kind == "q6_k":
            blocks[:, 192:208] = scale
        weights.append(of_bytes(kind, 3, blocks, seed=byte))
    return weights
