"""Quantized weights: their blocks against GGUF's own reader, their products against exact sums."""

from itertools import chain, combinations

import numpy as np
import pytest
import torch
from gguf import quants
from hypothesis import given, settings
from hypothesis import strategies as st

from server.kernels.cpu.linear import NativeLinear
from server.kernels.quantized import (
    BLOCK_INPUTS,
    GROUP,
    TYPES,
    QuantizedKind,
    QuantizedWeight,
    RoundedKind,
    StackedWeight,
    concatenate,
    quantize,
    side_by_side,
)
from tests.kernels.block_weights import ALL_KINDS, extreme_blocks, random_blocks
from tests.kernels.native_models import needs_native

LEVELS, WIDE_LEVELS = 127, 127 * 128
"""Steps of an activation's absolute value; of those in a group's wide quads."""

COARSEST = 1.35
"""How many times the step that two wide quads allow a group's may be, to have fewer (`dot.h`)."""


def random_weight(outputs: int, inputs: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    scales = torch.rand(outputs, inputs // GROUP, 1, generator=generator) + 0.01
    values = torch.randn(outputs, inputs // GROUP, GROUP, generator=generator) * scales
    return values.reshape(outputs, inputs)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_blocks_are_those_of_gguf(kind: QuantizedKind) -> None:
    stored = random_blocks(kind, 7, 512)
    expected = torch.from_numpy(np.asarray(quants.dequantize(stored.blocks.numpy(), TYPES[kind])))
    assert stored.shape == (7, 512)
    assert torch.equal(stored.dequantize(), expected)
    assert torch.equal(stored.rows(torch.tensor([3, 1])).dequantize(), expected[[3, 1]])


@pytest.mark.parametrize("kind", ["q4_1", "q8_0"])
def test_what_gguf_quantises_is_read(kind: QuantizedKind) -> None:
    weight = random_weight(7, 96)
    blocks = quants.quantize(weight.numpy(), TYPES[kind])
    stored = QuantizedWeight(kind, torch.from_numpy(blocks))
    assert float((stored.dequantize() - weight).abs().max()) < 0.2 * float(weight.abs().max())


@pytest.mark.parametrize(("kind", "levels"), [("q4_1", 15), ("q8_0", 254)])
def test_quantizing_errs_by_half_a_level(kind: RoundedKind, levels: int) -> None:
    weight = random_weight(20, 128)
    groups = weight.reshape(-1, GROUP)
    low, high = groups.aminmax(dim=1, keepdim=True)
    if kind == "q8_0":
        low, high = -groups.abs().amax(1, keepdim=True), groups.abs().amax(1, keepdim=True)
    error = (quantize(weight, kind).dequantize().reshape(-1, GROUP) - groups).abs()
    # Half a level, and the rounding of scale and offset to half precision.
    bound = (high - low) / levels / 2 + 2**-10 * torch.maximum(low.abs(), high.abs())
    assert bool((error <= 1.01 * bound).all())


@pytest.mark.parametrize("kind", ["q4_1", "q8_0"])
def test_equal_weights(kind: RoundedKind) -> None:
    weight = torch.tensor([0.0, -1.5]).repeat_interleave(GROUP)[None]
    torch.testing.assert_close(quantize(weight, kind).dequantize(), weight, rtol=1e-3, atol=0)


def test_rows_and_concatenation() -> None:
    weight = quantize(random_weight(6, 64), "q4_1")
    parts = weight.rows(torch.tensor([4, 5])), weight.rows(torch.tensor([0]))
    expected = weight.dequantize()[[4, 5, 0]]
    assert torch.equal(concatenate(parts).dequantize(), expected)


def test_weights_of_several_kinds_are_stacked() -> None:
    parts = (random_blocks("q4_k", 32, 256), random_blocks("q6_k", 5, 256))
    stacked = concatenate(parts)
    assert isinstance(stacked, StackedWeight)
    assert (stacked.shape, len(stacked)) == ((37, 256), 37)
    expected = torch.cat([part.dequantize() for part in parts])
    assert torch.equal(stacked.dequantize(), expected)
    for wrong in (
        parts[::-1],
        (parts[0], random_blocks("q6_k", 5, 512)),
        (*parts[:1] * 3, parts[1]),
    ):
        with pytest.raises(ValueError, match="parts of shapes"):
            concatenate(wrong)


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
    """[rows, groups, 1]: the step of each group; up to two quads, those with the largest values,
    have 128 times as many steps."""
    quads = x.float().reshape(len(x), -1, GROUP // 4, 4).abs().amax(-1)
    first, second, third = quads.sort(-1, descending=True).values[..., :3, None].unbind(-2)
    coarsest = third * COARSEST
    narrow = torch.where(first < coarsest, first, torch.where(second < coarsest, second, third))
    return torch.maximum(narrow / LEVELS, first / WIDE_LEVELS)


def exact_product(x: torch.Tensor, weight: QuantizedWeight) -> torch.Tensor:
    """With activations rounded to steps of their group, as the kernel's; float64."""
    groups, scale = x.float().reshape(len(x), -1, GROUP), activation_scales(x)
    inverse = torch.where(scale == 0, 0.0, 1 / scale)
    rounded = (groups * inverse).round() * scale
    return rounded.reshape(len(x), -1).double() @ weight.dequantize().double().T


@needs_native()
@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(ALL_KINDS),
    rows=st.integers(1, 70),
    outputs=st.integers(1, 200),
    blocks=st.integers(1, 12),
    num_threads=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_native_products(
    kind: QuantizedKind, rows: int, outputs: int, blocks: int, num_threads: int, seed: int
) -> None:
    inputs = (
        blocks * GROUP if BLOCK_INPUTS[kind] == GROUP else (1 + blocks % 3) * BLOCK_INPUTS[kind]
    )
    weight = random_blocks(kind, outputs, inputs, seed)
    x = torch.randn(rows, inputs, generator=torch.Generator().manual_seed(seed)).bfloat16()
    x[:, seed % 37 :: 37] *= 100  # at most one of a group, as models have them
    x[:, seed % 41 :: 41] *= 30  # and smaller ones, so that groups have none, one or two
    x[0] = 0
    actual = NativeLinear(weight, num_threads)(x)
    expected = exact_product(x, weight)
    # A value on the border between two levels may round either way: one level of one group.
    slack = activation_scales(x).max() * weight.dequantize().abs().max()
    size = x.float().abs() @ weight.dequantize().abs().T
    assert bool(((actual - expected).abs() <= 1e-5 * size + slack).all())
    assert float(((actual - expected).abs() / (size + 1e-9)).median()) < 1e-5
    assert torch.equal(actual[0], torch.zeros(outputs))


@needs_native()
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_rows_do_not_depend_on_company_or_threads(kind: QuantizedKind) -> None:
    weight = random_blocks(kind, 150, 512)
    x = torch.randn(70, 512, generator=torch.Generator().manual_seed(1)).bfloat16()
    linear = NativeLinear(weight, 1)
    alone = torch.cat([linear(row[None]) for row in x])
    for count in (*range(2, 18), 33):
        assert torch.equal(linear(x[:count]), alone[:count])
    for num_threads in (1, 2, 3):
        linear = NativeLinear(weight, num_threads)
        for first, last in ((0, 70), (0, 7), (5, 11), (64, 69), (0, 17)):
            assert torch.equal(linear(x[first:last]), alone[first:last])


@needs_native()
@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize("num_threads", [1, 2])
def test_outputs_do_not_depend_on_their_company(kind: QuantizedKind, num_threads: int) -> None:
    """Of so many a thread takes a whole panel at a time; of some of them, a quarter."""
    weight = random_blocks(kind, 2100, 256)
    x = torch.randn(3, 256, generator=torch.Generator().manual_seed(1)).bfloat16()
    whole = NativeLinear(weight, num_threads)(x)
    for first in (0, 40, 1000, 2050):
        some = torch.arange(first, min(first + 150, 2100))
        assert torch.equal(NativeLinear(weight.rows(some), 1)(x), whole[:, some])


def extreme_rows(inputs: int) -> torch.Tensor:
    """Activations whose integers are all at their largest: 127 in most quads of each group and
    128 * 127 in two, one or none of them, at all places; of one sign, and of both in turn."""
    rows = list[torch.Tensor]()
    for wide in chain.from_iterable(combinations(range(GROUP // 4), count) for count in (0, 1, 2)):
        quads = torch.ones(GROUP // 4, 4)
        quads[list(wide)] = 128
        row = quads.reshape(-1).repeat(inputs // GROUP)
        signs = torch.tensor([1.0, -1.0]).repeat(inputs // 2)
        rows += [row, -row, row * signs]
    return torch.stack(rows).bfloat16()


@needs_native()
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_no_sum_overflows(kind: QuantizedKind) -> None:
    x = extreme_rows(BLOCK_INPUTS[kind])
    for weight in extreme_blocks(kind):
        floats = weight.dequantize()
        for rows in (x, x[:1], x[3:6]):
            size = rows.double().abs() @ floats.double().abs().T
            actual = NativeLinear(weight, 1)(rows).double()
            error = (actual - rows.double() @ floats.double().T).abs()
            # An offset's part may cancel the integers' part, which is up to 16 times the sum.
            assert bool((error <= 1e-5 * size.max(1, keepdim=True).values).all())


@needs_native()
@pytest.mark.parametrize(
    "kinds", [("q4_k", "q4_k", "q6_k"), ("q5_0", "q8_0", "iq4_nl"), ("q4_0", "q5_1")]
)
def test_a_stacked_weight_is_its_parts(kinds: tuple[QuantizedKind, ...]) -> None:
    parts = [
        random_blocks(kind, outputs, 256, seed)
        for seed, (kind, outputs) in enumerate(zip(kinds, (48, 16, 35), strict=False))
    ]
    x = torch.randn(21, 256, generator=torch.Generator().manual_seed(1)).bfloat16()
    expected = torch.cat([NativeLinear(part, 1)(x) for part in parts], dim=1)
    stacked = StackedWeight(tuple(parts))
    for num_threads in (1, 2):
        assert torch.equal(NativeLinear(stacked, num_threads)(x), expected)


@needs_native()
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_what_is_no_number_stays_none(kind: QuantizedKind) -> None:
    """And in its row; an infinite activation has no step either."""
    weight = random_blocks(kind, 40, 512)
    linear = NativeLinear(weight, 1)
    x = torch.randn(6, 512, generator=torch.Generator().manual_seed(0)).bfloat16()
    expected = linear(x)
    assert bool(expected.isfinite().all())
    x[1, 40], x[2, 63], x[4, 100] = torch.nan, torch.inf, -torch.inf
    x[4, 120] = torch.nan
    actual = linear(x)
    assert bool(actual[[1, 2, 4]].isnan().all())
    assert torch.equal(actual[[0, 3, 5]], expected[[0, 3, 5]])


@needs_native()
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_groups_with_any_number_of_wide_quads(kind: QuantizedKind) -> None:
    """Some quads of a group stick out, by less or by more than what makes them wide; in rows whose
    groups have none, one and two wide ones side by side."""
    weight = random_blocks(kind, 32, 2 * BLOCK_INPUTS[kind])
    generator = torch.Generator().manual_seed(3)
    num_groups = weight.shape[1] // GROUP
    quads = torch.ones(24, num_groups, GROUP // 4)
    for by in (1.2, 1.3, 1.4, 4.0, 300.0):
        places = torch.rand(quads.shape, generator=generator)
        chosen = torch.rand(24, num_groups, 1, generator=generator) < 0.4
        quads[chosen & (places == places.amax(-1, keepdim=True))] *= by  # a quad of such a group
    values = 1 - torch.rand(24, num_groups, GROUP // 4, 4, generator=generator) / 8
    x = (values * quads[..., None]).reshape(24, -1).bfloat16()
    step, largest = activation_scales(x).squeeze(-1), x.float().reshape(24, -1, GROUP).abs()
    num_wide = (largest.unflatten(-1, (-1, 4)).amax(-1) > 1.01 * LEVELS * step[..., None]).sum(-1)
    assert set(num_wide.flatten().tolist()) == {0, 1, 2}
    actual, expected = NativeLinear(weight, 1)(x), exact_product(x, weight)
    slack = activation_scales(x).max() * weight.dequantize().abs().max()
    size = x.float().abs() @ weight.dequantize().abs().T
    assert bool(((actual - expected).abs() <= 1e-5 * size + slack).all())
    assert float(((actual - expected).abs() / size).median()) < 1e-5
