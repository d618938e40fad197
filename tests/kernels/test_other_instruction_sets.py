"""The promises of the native kernels, by the libraries that do not serve by themselves on this
machine: on the cheaper cases of the tests that the best one passes in full. Where the CPU has
AVX-VNNI in another encoding only, its library is compiled in that one (`compiled.py`)."""

from functools import cache
from pathlib import Path

import pytest
import torch

from server.kernels.cpu import library
from server.kernels.cpu.instruction_sets import VARIABLE, InstructionSet, built_libraries
from server.kernels.cpu.linear import NativeLinear
from server.kernels.quantized import QuantizedKind, RoundedKind
from tests.kernels import (
    test_native_attention,
    test_native_decoder,
    test_native_linear,
    test_quantized,
    test_quantized_decoder,
)
from tests.kernels.block_weights import ALL_KINDS, random_blocks
from tests.kernels.compiled import COMPILED_HERE, REENCODED, SOURCES, compile_native
from tests.kernels.native_models import INSTRUCTION_SETS_HERE, native_model
from tests.kernels.quantized_models import KINDS, quantized_model
from tests.kernels.workload import CONTEXT, TOKENS, one_by_one
from tests.models import test_glide_native, test_glide_quantized

PLAIN = ("all-96", "gqa3-32-tied")
QUANTIZED: tuple[tuple[str, RoundedKind], ...] = (("all-96", "q4_1"), ("gqa5-32-window", "q8_0"))


@pytest.fixture(scope="module")
def reencoded(tmp_path_factory: pytest.TempPathFactory) -> dict[InstructionSet, Path]:
    """Libraries of the instruction sets that run here in another encoding only."""
    folder = tmp_path_factory.mktemp("reencoded")
    flags = ["-O3", "-fPIC", "-shared", "-fvisibility=hidden"]
    made = dict[InstructionSet, Path]()
    for name in REENCODED:
        made[name] = folder / f"_native_{name}.so"
        compile_native(made[name], name, flags, sorted(SOURCES.glob("*.cpp")))
    return made


@pytest.fixture(params=COMPILED_HERE[1:], autouse=True)
def kernels(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    reencoded: dict[InstructionSet, Path],
) -> InstructionSet:
    name: InstructionSet = request.param
    monkeypatch.setenv(VARIABLE, name)
    if name in reencoded:
        libraries = {**built_libraries(), **reencoded}
        monkeypatch.setattr(library, "built_libraries", lambda: libraries)
        monkeypatch.setattr(library, "asks_cpu", lambda of: lambda name: True)
        for cached in (library._pick, library._load):  # pyright: ignore[reportPrivateUsage]
            monkeypatch.setattr(library, cached.__name__, cache(cached.__wrapped__))
    assert library.kernels_in_use() == name
    return name


def test_products() -> None:
    test_native_linear.test_random_shapes()
    for dtype in test_native_linear.PRECISIONS:
        test_native_linear.test_rows_do_not_depend_on_company_or_threads(dtype)
    test_native_linear.test_failed_allocation_raises()


def test_quantized_products() -> None:
    test_quantized.test_native_products()
    for kind in ALL_KINDS:
        test_quantized.test_rows_do_not_depend_on_company_or_threads(kind)
        test_quantized.test_no_sum_overflows(kind)
    test_quantized.test_a_stacked_weight_is_its_parts(("q4_k", "q4_k", "q6_k"))


def test_quantized_products_are_those_of_the_best(
    kernels: InstructionSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit: sums of integers are exact, and scales are applied in one order. The portable
    library rounds once more, since its multiply-adds are not fused."""
    x = torch.randn(33, 256, generator=torch.Generator().manual_seed(2)).bfloat16()
    x[:, ::29] *= 100
    bound = 1e-5 if kernels == "portable" else 0.0
    for kind in ALL_KINDS:
        weight = random_blocks(kind, 150, 256)
        actual = NativeLinear(weight, 1)(x)
        with monkeypatch.context() as patch:
            patch.setenv(VARIABLE, INSTRUCTION_SETS_HERE[0])
            best = NativeLinear(weight, 1)(x)
        torch.testing.assert_close(actual, best, rtol=bound, atol=100 * bound)


@pytest.mark.parametrize("kind", ["q4_1", "q6_k", "q8_0"])
def test_what_is_no_number_stays_none(kind: QuantizedKind) -> None:
    test_quantized.test_what_is_no_number_stays_none(kind)


@pytest.mark.parametrize("name", PLAIN)
def test_decoder(name: str) -> None:
    test_native_decoder.test_error_is_that_of_torch_in_bfloat16(name, 3)
    test_native_decoder.test_threads_change_no_bit(name, 3)
    model = native_model(name, num_threads=1)
    variant = (model, one_by_one(model, TOKENS))
    test_native_decoder.test_chunking_changes_no_bit(variant, [7, 6, 5, 42], 3)
    test_native_decoder.test_company_changes_no_bit(variant)
    for context in (CONTEXT, CONTEXT + 1):
        test_native_decoder.test_tree_equals_the_chain_of_each_path(variant, 3, context)


@pytest.mark.parametrize(("name", "kind"), QUANTIZED)
def test_quantized_layers(name: str, kind: RoundedKind) -> None:
    test_quantized_decoder.test_error_is_at_most_twice_that_of_torch_in_bfloat16(name, kind, 16)
    test_quantized_decoder.test_threads_change_no_bit(name, kind, 2)
    model = quantized_model(name, kind, num_threads=1)
    variant = (model, one_by_one(model, TOKENS))
    test_quantized_decoder.test_chunking_changes_no_bit(variant, [17, 16, 15, 12], 16)
    test_quantized_decoder.test_company_changes_no_bit(variant)
    test_quantized_decoder.test_tree_equals_the_chain_of_each_path(variant, 16)


@pytest.mark.parametrize("dtype", test_native_attention.DTYPES, ids=str)
@pytest.mark.parametrize("sizes", ["80", "odd"])
def test_attention(sizes: str, dtype: torch.dtype) -> None:
    case = sizes, "everything", dtype
    test_native_attention.test_error_is_at_most_that_of_torch(*case)
    test_native_attention.test_chunks_threads_and_company_change_no_bit(*case)
    test_native_attention.test_tree_equals_the_chain_of_each_path("everything", dtype, 61, sizes)


def test_draft() -> None:
    test_glide_native.test_error_is_that_of_torch_in_bfloat16("everything")
    for name in ("three-glimpses", "copies-hidden"):
        test_glide_native.test_chains_are_single_steps_in_any_company(name)


def test_quantized_draft() -> None:
    name, kind = test_glide_quantized.CASES[0][0], KINDS[0]
    test_glide_quantized.test_error_is_at_most_twice_that_of_torch_in_bfloat16(name, kind)
    test_glide_quantized.test_chains_are_single_steps_in_any_company(name, kind)
