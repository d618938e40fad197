"""Every tensor type, against its definition in the GGUF format, written out here once more."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest
import torch

from server.errors import UnsupportedModelError
from weights.gguf.file import SUPPORTED_TYPES, read_gguf

WriteGGUF = Callable[..., Path]
Convert = Callable[..., tuple[Path, dict[str, torch.Tensor]]]
Type = gguf.GGMLQuantizationType


def half(raw: bytes) -> np.float32:
    return np.frombuffer(raw, np.float16)[0].astype(np.float32)


def q8_0(block: bytes) -> list[np.float32]:
    return [half(block[:2]) * np.float32(q) for q in np.frombuffer(block[2:], np.int8)]


def q4_0(block: bytes) -> list[np.float32]:
    nibbles = [b & 15 for b in block[2:]] + [b >> 4 for b in block[2:]]
    return [half(block[:2]) * np.float32(q - 8) for q in nibbles]


def q4_1(block: bytes) -> list[np.float32]:
    nibbles = [b & 15 for b in block[4:]] + [b >> 4 for b in block[4:]]
    return [half(block[:2]) * np.float32(q) + half(block[2:4]) for q in nibbles]


def five_bits(high: bytes, halves: bytes) -> list[int]:
    """Low 4 bits as in Q4_0; the fifth of value i is bit i of `high`."""
    bits = int.from_bytes(high, "little")
    nibbles = [b & 15 for b in halves] + [b >> 4 for b in halves]
    return [nibble | (bits >> i & 1) << 4 for i, nibble in enumerate(nibbles)]


def q5_0(block: bytes) -> list[np.float32]:
    return [half(block[:2]) * np.float32(q - 16) for q in five_bits(block[2:6], block[6:])]


def q5_1(block: bytes) -> list[np.float32]:
    scale, offset = half(block[:2]), half(block[2:4])
    return [scale * np.float32(q) + offset for q in five_bits(block[4:8], block[8:])]


IQ4_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def iq4_nl(block: bytes) -> list[np.float32]:
    nibbles = [b & 15 for b in block[2:]] + [b >> 4 for b in block[2:]]
    return [half(block[:2]) * np.float32(IQ4_VALUES[q]) for q in nibbles]


def q4_k(block: bytes) -> list[np.float32]:
    return four_or_five_k(block[:16], bytes(32), block[16:])


def q5_k(block: bytes) -> list[np.float32]:
    return four_or_five_k(block[:16], block[16:48], block[48:])


def four_or_five_k(head: bytes, high: bytes, quants: bytes) -> list[np.float32]:
    """Eight groups of 32; their 6-bit scales and minimums are packed into 12 bytes, and bit g of 32
    bytes is the fifth bit of group g."""
    scale, minimum, packed = half(head[:2]), half(head[2:4]), head[4:]
    values: list[np.float32] = []
    for group in range(8):
        if group < 4:
            s, m = packed[group] & 63, packed[group + 4] & 63
        else:
            s = (packed[group + 4] & 15) | (packed[group - 4] >> 6) << 4
            m = (packed[group + 4] >> 4) | (packed[group] >> 6) << 4
        pair = quants[group // 2 * 32 : group // 2 * 32 + 32]
        nibbles = [b >> 4 if group % 2 else b & 15 for b in pair]
        whole = [q | (b >> group & 1) << 4 for q, b in zip(nibbles, high, strict=True)]
        values += [scale * np.float32(s) * np.float32(q) - minimum * np.float32(m) for q in whole]
    return values


def q6_k(block: bytes) -> list[np.float32]:
    """Sixteen groups of 16 with 8-bit scales; 4 low bits and 2 high bits stored apart."""
    low, high, scales = block[:128], block[128:192], np.frombuffer(block[192:208], np.int8)
    values: list[np.float32] = []
    for index in range(256):
        part, place = index // 128, index % 128
        quarter, lane = place // 32, place % 32
        byte = low[part * 64 + lane + 32 * (quarter % 2)]
        nibble = byte >> 4 if quarter >= 2 else byte & 15
        bits = (high[part * 32 + lane] >> 2 * quarter) & 3
        scale = half(block[208:]) * np.float32(scales[index // 16])
        values.append(scale * np.float32((nibble | bits << 4) - 32))
    return values


DEFINITIONS = {
    Type.Q8_0: q8_0, Type.Q4_0: q4_0, Type.Q4_1: q4_1, Type.Q5_0: q5_0, Type.Q5_1: q5_1,
    Type.IQ4_NL: iq4_nl, Type.Q4_K: q4_k, Type.Q5_K: q5_k, Type.Q6_K: q6_k,
}  # fmt: skip
PLACES = {
    Type.Q4_1: (0, 2), Type.Q5_1: (0, 2), Type.Q4_K: (0, 2), Type.Q5_K: (0, 2), Type.Q6_K: (208,),
    Type.Q2_K: (80, 82), Type.Q3_K: (108,), Type.TQ1_0: (52,), Type.TQ2_0: (64,),
    Type.MXFP4: (), Type.NVFP4: (), Type.IQ1_M: (),
}  # fmt: skip
"""Where in a block its half-precision numbers are; elsewhere one at the beginning."""


def random_blocks(kind: gguf.GGMLQuantizationType, rows: int, width: int) -> npt.NDArray[np.uint8]:
    """Random bytes as quantised rows, with sane half-precision scales in place of random ones."""
    size, num_bytes = gguf.GGML_QUANT_SIZES[kind]
    random = np.random.default_rng(1)
    blocks = random.integers(0, 256, (rows * width // size, num_bytes), np.uint8)
    for place in PLACES.get(kind, (0,)):
        scales = random.uniform(0.01, 0.1, len(blocks)).astype(np.float16)
        blocks[:, place : place + 2] = scales.view(np.uint8).reshape(-1, 2)
    if kind == Type.MXFP4:
        blocks[:, 0] = random.integers(118, 128, len(blocks))  # a power of two
    return blocks.reshape(rows, -1)


@pytest.mark.parametrize("kind", DEFINITIONS)
def test_quantised_types(
    write_gguf: WriteGGUF,
    convert: Convert,
    tensors: dict[str, Any],
    kind: gguf.GGMLQuantizationType,
) -> None:
    rows = random_blocks(kind, 6, 512)
    path = write_gguf(tensors=tensors | {"blk.0.ffn_down.weight": (rows, kind)})
    weight = convert(path)[1]["model.layers.0.mlp.down_proj.weight"]
    blocks = rows.reshape(-1, gguf.GGML_QUANT_SIZES[kind][1])
    expected = [value for block in blocks for value in DEFINITIONS[kind](block.tobytes())]
    np.testing.assert_allclose(weight.numpy().reshape(-1), expected, rtol=1e-6, atol=1e-6)
    assert weight.shape == (6, 512)


@pytest.mark.parametrize("kind", [t for t in SUPPORTED_TYPES if gguf.GGML_QUANT_SIZES[t][0] > 1])
def test_every_type_is_read_as_the_gguf_package_does(
    write_gguf: WriteGGUF,
    convert: Convert,
    tensors: dict[str, Any],
    kind: gguf.GGMLQuantizationType,
) -> None:
    rows = random_blocks(kind, 6, 512)
    path = write_gguf(tensors=tensors | {"blk.0.ffn_down.weight": (rows, kind)})
    weight = convert(path)[1]["model.layers.0.mlp.down_proj.weight"]
    expected = gguf.quants.dequantize(rows, kind)
    assert weight.shape == expected.shape == (6, 512)
    assert np.array_equal(weight.numpy(), expected, equal_nan=True)
    assert np.count_nonzero(np.isfinite(expected)) > 2500


def test_every_type_that_the_gguf_package_knows_is_read_or_refused_by_name(
    write_gguf: WriteGGUF, tensors: dict[str, Any]
) -> None:
    for kind in set(gguf.GGMLQuantizationType) - set(SUPPORTED_TYPES):
        size, num_bytes = gguf.GGML_QUANT_SIZES[kind]
        data = np.zeros((2, num_bytes), np.uint8)
        with pytest.raises(NotImplementedError):
            gguf.quants.dequantize(data, kind)
        if size > 1:
            name = "blk.0.ffn_down.weight"
            path = write_gguf(f"{kind.name}.gguf", tensors=tensors | {name: (data, kind)})
            with pytest.raises(UnsupportedModelError, match=f"{name} has type {kind.name}, which"):
                read_gguf(path)


@pytest.mark.parametrize("kind", [Type.Q8_0, Type.Q4_0, Type.Q4_1])
def test_what_the_gguf_package_quantised_comes_back_close(
    write_gguf: WriteGGUF,
    convert: Convert,
    tensors: dict[str, Any],
    kind: gguf.GGMLQuantizationType,
) -> None:
    name = "blk.0.ffn_up.weight"
    path = write_gguf(tensors=tensors | {name: (gguf.quants.quantize(tensors[name], kind), kind)})
    weight = convert(path)[1]["model.layers.0.mlp.up_proj.weight"].numpy()
    assert np.abs(weight - tensors[name]).max() < (0.02 if kind == Type.Q8_0 else 0.3)


@pytest.mark.parametrize("kind", [Type.F32, Type.F16, Type.BF16])
def test_unquantised_types_are_exact(
    write_gguf: WriteGGUF,
    convert: Convert,
    tensors: dict[str, Any],
    kind: gguf.GGMLQuantizationType,
) -> None:
    dtype = {Type.F16: torch.float16, Type.BF16: torch.bfloat16}.get(kind, torch.float32)
    stored = {
        name: (torch.from_numpy(value).to(dtype).view(torch.uint8).numpy(), kind)
        for name, value in tensors.items()
    }
    weights = convert(write_gguf(tensors=stored))[1]
    expected = torch.from_numpy(tensors["blk.0.ffn_up.weight"]).to(dtype).float()
    assert torch.equal(weights["model.layers.0.mlp.up_proj.weight"], expected)
    norm = torch.from_numpy(tensors["output_norm.weight"]).to(dtype).float()
    assert torch.equal(weights["model.norm.weight"], norm)
