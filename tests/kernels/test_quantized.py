"""Quantized weights: their blocks against GGUF's own reader, their products against exact sums."""

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, quants
from hypothesis import given, settings
from hypothesis import strategies as st

from server.kernels.cpu.decoder import NativeLinear
from server.kernels.quantized import (
    GROUP,
    QuantizedKind,
    QuantizedWeight,
    concatenate,
    quantize,
    side_by_side,
)
from tests.kernels.native_models import needs_native

LEVELS, WIDE_LEVELS = 127, 127 * 128
"""Steps of an activation's absolute value; of those in a group's wide quads."""
KINDS: tuple[QuantizedKind, ...] = ("q4_1", "q8_0")
TYPES = {"q4_1": GGMLQuantizationType.Q4_1, "q8_0": GGMLQuantizationType.Q8_0}


def random_weight(outputs: int, inputs: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    scales = torch.rand(outputs, inputs // GROUP, 1, generator=generator) + 0.01
    values = torch.randn(outputs, inputs // GROUP, GROUP, generator=generator) * scales
    return values.reshape(outputs, inputs)


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_are_those_of_gguf(kind: QuantizedKind) -> None:
    weight = random_weight(7, 96)
    blocks = quants.quantize(weight.numpy(), TYPES[kind])
    stored = QuantizedWeight(kind, torch.from_numpy(blocks))
    expected = torch.from_numpy(np.asarray(quants.dequantize(blocks, TYPES[kind])))
    assert stored.shape == (7, 96)
    assert torch.equal(stored.dequantize(), expected)


@pytest.mark.parametrize(("kind", "levels"), [("q4_1", 15), ("q8_0", 254)])
def test_quantizing_errs_by_half_a_level(kind: QuantizedKind, levels: int) -> None:
    weight = random_weight(20, 128)
    groups = weight.reshape(-1, GROUP)
    low, high = groups.aminmax(dim=1, keepdim=True)
    if kind == "q8_0":
        low, high = -groups.abs().amax(1, keepdim=True), groups.abs().amax(1, keepdim=True)
    error = (quantize(weight, kind).dequantize().reshape(-1, GROUP) - groups).abs()
    # Half a level, and the rounding of scale and offset to half precision.
    bound = (high - low) / levels / 2 + 2**-10 * torch.maximum(low.abs(), high.abs())
    assert bool((error <= 1.01 * bound).all())


@pytest.mark.parametrize("kind", KINDS)
def test_equal_weights(kind: QuantizedKind) -> None:
    weight = torch.tensor([0.0, -1.5]).repeat_interleave(GROUP)[None]
    torch.testing.assert_close(quantize(weight, kind).dequantize(), weight, rtol=1e-3, atol=0)


def test_rows_and_concatenation() -> None:
    weight = quantize(random_weight(6, 64), "q4_1")
    parts = weight.rows(torch.tensor([4, 5])), weight.rows(torch.tensor([0]))
    expected = weight.dequantize()[[4, 5, 0]]
    assert torch.equal(concatenate(parts).dequantize(), expected)
    with pytest.raises(ValueError, match="q4_1, q8_0"):
        concatenate((weight, quantize(random_weight(1, 64), "q8_0")))


def test_side_by_side() -> None:
    one, other = (random_weight(6, inputs, seed=inputs) for inputs in (64, 32))
    both = torch.cat((one, other), dim=1)
    assert torch.equal(_checked(side_by_side([one, other])), both)
    found = side_by_side([quantize(one, "q4_1"), quantize(other, "q4_1")])
    assert isinstance(found, QuantizedWeight)
    assert torch.equal(found.dequantize(), quantize(both, "q4_1").dequantize())
    assert side_by_side([]) is None
    for wrong in (other, quantize(other, "q8_0")):
        with pytest.raises(ValueError, match="2 kinds"):
            side_by_side([quantize(one, "q4_1"), wrong])


def _checked(weight: object) -> torch.Tensor:
    assert isinstance(weight, torch.Tensor)
    return weight


def activation_scales(x: torch.Tensor) -> torch.Tensor:
    """[rows, groups, 1]: the step of each group; the two quads with the largest values have 128
    times as many steps."""
    quads = x.float().reshape(len(x), -1, GROUP // 4, 4).abs().amax(-1).sort(-1).values
    return torch.maximum(quads[..., -3:-2] / LEVELS, quads[..., -1:] / WIDE_LEVELS)


def exact_product(x: torch.Tensor, weight: QuantizedWeight) -> torch.Tensor:
    """With activations rounded to steps of their group, as the kernel's; float64."""
    groups, scale = x.float().reshape(len(x), -1, GROUP), activation_scales(x)
    inverse = torch.where(scale == 0, 0.0, 1 / scale)
    rounded = (groups * inverse).round() * scale
    return rounded.reshape(len(x), -1).double() @ weight.dequantize().double().T


@needs_native()
@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    rows=st.integers(1, 70),
    outputs=st.integers(1, 200),
    groups=st.integers(1, 12),
    num_threads=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_native_products(
    kind: QuantizedKind, rows: int, outputs: int, groups: int, num_threads: int, seed: int
) -> None:
    weight = quantize(random_weight(outputs, groups * GROUP, seed), kind)
    x = torch.randn(rows, groups * GROUP, generator=torch.Generator().manual_seed(seed)).bfloat16()
    x[:, seed % 37 :: 37] *= 100  # at most one of a group, as models have them
    x[0] = 0
    actual = NativeLinear(weight, num_threads)(x)
    expected = exact_product(x, weight)
    # A value on the border between two levels may round either way: one level of one group.
    slack = activation_scales(x).max() * weight.dequantize().abs().max()
    assert bool(((actual - expected).abs() <= 1e-3 * expected.abs() + 1e-3 + slack).all())
    assert float((actual - expected).abs().median()) < 1e-4
    assert torch.equal(actual[0], torch.zeros(outputs))


@needs_native()
@pytest.mark.parametrize("kind", KINDS)
def test_rows_do_not_depend_on_company_or_threads(kind: QuantizedKind) -> None:
    weight = quantize(random_weight(150, 96), kind)
    x = torch.randn(70, 96, generator=torch.Generator().manual_seed(1)).bfloat16()
    alone = torch.cat([NativeLinear(weight, 1)(row[None]) for row in x])
    for num_threads in (1, 2, 3):
        linear = NativeLinear(weight, num_threads)
        for first, last in ((0, 70), (0, 7), (5, 11), (64, 69), (0, 17)):
            assert torch.equal(linear(x[first:last]), alone[first:last])
