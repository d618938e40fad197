"""The promises of the native kernels, by the libraries that do not serve by themselves on this
machine: on the cheaper cases of the tests that the best one passes in full."""

import pytest
import torch

from server.kernels.cpu.decoder import NativeLinear
from server.kernels.cpu.instruction_sets import VARIABLE
from server.kernels.quantized import GROUP, QuantizedWeight, RoundedKind
from tests.kernels import (
    test_native_decoder,
    test_native_linear,
    test_quantized,
    test_quantized_decoder,
)
from tests.kernels.block_weights import ALL_KINDS
from tests.kernels.native_models import INSTRUCTION_SETS_HERE, native_model
from tests.kernels.quantized_models import KINDS, quantized_model
from tests.kernels.test_native_decoder import TOKENS, one_by_one
from tests.models import test_glide_native, test_glide_quantized

PLAIN = ("all-96", "gqa3-32-tied")
QUANTIZED: tuple[tuple[str, RoundedKind], ...] = (("all-96", "q4_1"), ("gqa5-32-window", "q8_0"))


@pytest.fixture(params=INSTRUCTION_SETS_HERE[1:], autouse=True)
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, request.param)


def test_products() -> None:
    test_native_linear.test_random_shapes()
    test_native_linear.test_rows_do_not_depend_on_company_or_threads()
    test_native_linear.test_failed_allocation_raises()


def test_quantized_products() -> None:
    test_quantized.test_native_products()
    for kind in ALL_KINDS:
        test_quantized.test_rows_do_not_depend_on_company_or_threads(kind)
        test_quantized.test_no_sum_overflows(kind)
    test_quantized.test_a_stacked_weight_is_its_parts(("q4_k", "q4_k", "q6_k"))


def test_what_is_no_number_stays_none() -> None:
    """And in its row."""
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    values = torch.randint(256, (5, 2, 34), generator=torch.Generator().manual_seed(1))
    values[:, :, 1] = 0x18  # scales about 0.002
    weight = QuantizedWeight("q8_0", values.to(torch.uint8).reshape(5, 2 * 34))
    linear = NativeLinear(weight, 1)
    expected = linear(x)
    assert weight.shape == (5, 2 * GROUP)
    x[1, 40] = torch.nan
    actual = linear(x)
    assert bool(actual[1].isnan().all())
    assert torch.equal(actual[::2], expected[::2])


@pytest.mark.parametrize("name", PLAIN)
def test_decoder(name: str) -> None:
    test_native_decoder.test_error_is_that_of_torch_in_bfloat16(name, 3)
    test_native_decoder.test_threads_change_no_bit(name, 3)
    model = native_model(name, num_threads=1)
    variant = (model, one_by_one(model, TOKENS))
    test_native_decoder.test_chunking_changes_no_bit(variant, [7, 6, 5, 42], 3)
    test_native_decoder.test_company_changes_no_bit(variant)
    test_native_decoder.test_tree_equals_the_chain_of_each_path(variant, 3)


@pytest.mark.parametrize(("name", "kind"), QUANTIZED)
def test_quantized_layers(name: str, kind: RoundedKind) -> None:
    test_quantized_decoder.test_error_is_at_most_twice_that_of_torch_in_bfloat16(name, kind, 16)
    test_quantized_decoder.test_threads_change_no_bit(name, kind, 2)
    model = quantized_model(name, kind, num_threads=1)
    variant = (model, one_by_one(model, TOKENS))
    test_quantized_decoder.test_chunking_changes_no_bit(variant, [17, 16, 15, 12], 16)
    test_quantized_decoder.test_company_changes_no_bit(variant)
    test_quantized_decoder.test_tree_equals_the_chain_of_each_path(variant, 16)


def test_draft() -> None:
    test_glide_native.test_error_is_that_of_torch_in_bfloat16("everything")
    for name in ("three-glimpses", "copies-hidden"):
        test_glide_native.test_chains_are_single_steps_in_any_company(name)


def test_quantized_draft() -> None:
    name, kind = test_glide_quantized.CASES[0][0], KINDS[0]
    test_glide_quantized.test_error_is_at_most_twice_that_of_torch_in_bfloat16(name, kind)
    test_glide_quantized.test_chains_are_single_steps_in_any_company(name, kind)
