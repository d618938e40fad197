"""The native matrix product: close to float32, each row the same whatever the other rows."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from server.kernels.cpu.abi import Matrix
from server.kernels.cpu.library import native_library
from server.kernels.cpu.linear import NativeLinear, supports_linear
from tests.kernels.native_models import needs_native

pytestmark = needs_native()
PRECISIONS = (torch.bfloat16, torch.float32)


def rounding_bound(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Float32 sums, of exact products of bfloat16 numbers: one rounding for each pair of inputs,
    a second for the order of the two; of products of floats, one for each product where
    multiply-adds are not fused, and one for each sum."""
    return x.double().abs() @ weight.double().abs().T * x.shape[1] * 2.0**-23


@settings(max_examples=80, deadline=None)
@given(
    dtype=st.sampled_from(PRECISIONS),
    rows=st.integers(1, 70),
    outputs=st.integers(1, 200),
    half_inputs=st.integers(1, 150),
    num_threads=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_random_shapes(
    dtype: torch.dtype, rows: int, outputs: int, half_inputs: int, num_threads: int, seed: int
) -> None:
    torch.manual_seed(seed)
    weight = torch.randn(outputs, 2 * half_inputs).to(dtype)
    x = torch.randn(rows, 2 * half_inputs).to(dtype)
    actual = NativeLinear(weight, num_threads)(x)
    expected = x.double() @ weight.double().T
    assert actual.dtype is torch.float32
    assert actual.shape == (rows, outputs)
    assert bool(((actual - expected).abs() <= rounding_bound(x, weight)).all())


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_rows_do_not_depend_on_company_or_threads(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(150, 66).to(dtype), torch.randn(70, 66).to(dtype)
    alone = torch.cat([NativeLinear(weight, 1)(row[None]) for row in x])
    for num_threads in (1, 2, 3):
        linear = NativeLinear(weight, num_threads)
        for first, last in ((0, 70), (0, 7), (5, 11), (64, 69)):
            assert torch.equal(linear(x[first:last]), alone[first:last])


def test_views_are_made_contiguous() -> None:
    weight, x = torch.randn(20, 8).bfloat16(), torch.randn(8, 5).bfloat16()
    linear = NativeLinear(weight, 1)
    assert torch.equal(linear(x.T), linear(x.T.contiguous()))


def test_no_rows() -> None:
    assert NativeLinear(torch.randn(20, 8).bfloat16(), 2)(torch.empty(0, 8).bfloat16()).shape == (
        0,
        20,
    )


def test_wrong_precision_is_refused() -> None:
    weight = torch.randn(20, 8)
    with pytest.raises(ValueError, match="float16"):
        NativeLinear(weight.half(), 1)
    with pytest.raises(ValueError, match="float32"):
        NativeLinear(weight.bfloat16(), 1)(torch.randn(1, 8))
    with pytest.raises(ValueError, match="bfloat16"):
        NativeLinear(weight, 1)(torch.randn(1, 8).bfloat16())
    with pytest.raises(ValueError, match="strides"):
        NativeLinear(weight.bfloat16().T, 1)


@pytest.mark.parametrize("shape", [(3, 6), (3, 10), (8,), (1, 3, 8)], ids=str)
def test_rows_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    """Else they would be read beyond their end."""
    with pytest.raises(ValueError, match=r"8 inputs, not rows of shape \["):
        NativeLinear(torch.ones(4, 8), 1)(torch.ones(shape))


def test_failed_allocation_raises() -> None:
    library = native_library()
    assert library is not None
    with pytest.raises(MemoryError):
        library.glidecape_linear_create(Matrix(), 2**30, 2**30, 1)


def test_odd_inputs_and_other_precisions_are_left_to_torch() -> None:
    assert supports_linear(torch.empty(4, 6, dtype=torch.bfloat16))
    assert not supports_linear(torch.empty(4, 7, dtype=torch.bfloat16))
    assert supports_linear(torch.empty(4, 6))
    assert not supports_linear(torch.empty(4, 7))
    assert not supports_linear(torch.empty(4, 6, dtype=torch.float16))
