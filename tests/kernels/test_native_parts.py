"""Models whose layers are put together from native products and native attention: in float32, and
in bfloat16 where the native decoder does not take their sizes. Bit-identical however a token comes
to be computed, as the native decoder is."""

from dataclasses import replace
from typing import NamedTuple

import pytest
import torch

from server.models.causal_lm import CausalLM
from server.models.config import ModelConfig
from tests.kernels import test_native_decoder
from tests.kernels.native_models import (
    VARIANTS,
    draw_weights,
    needs_native,
    torch_threads,
    without_native_library,
)
from tests.kernels.paged import make_model
from tests.kernels.workload import CONTEXT, TOKENS, error, one_by_one, workload

pytestmark = needs_native()


class Case(NamedTuple):
    config: ModelConfig
    dtype: torch.dtype


CASES = {
    "float32": Case(VARIANTS["all-96"], torch.float32),
    "float32, tied": Case(VARIANTS["gqa3-32-tied"], torch.float32),
    "heads of 40": Case(replace(VARIANTS["all-96"], head_dim=40), torch.bfloat16),
}


def made(name: str, num_threads: int = 1) -> CausalLM:
    config, dtype = CASES[name]
    with torch_threads(num_threads):
        model = make_model(config, draw_weights(config), dtype)
    assert not model.is_fused
    assert model.has_threads
    return model


@pytest.mark.parametrize("name", CASES)
def test_computes_what_torch_computes(name: str) -> None:
    config, dtype = CASES[name]
    with without_native_library():
        weights = draw_weights(config)
        exact = workload(make_model(config, weights, torch.float32), 4)
        plain = error(workload(make_model(config, weights, dtype), 4), exact)
    bound = 2e-6 * float(exact.std()) if dtype is torch.float32 else 1.5 * plain
    assert error(workload(made(name), 4), exact) <= bound


@pytest.mark.parametrize("name", CASES)
def test_company_chunks_trees_and_threads_change_no_bit(name: str) -> None:
    model = made(name)
    variant = (model, one_by_one(model, TOKENS))
    test_native_decoder.test_chunking_changes_no_bit(variant, [7, 6, 5, 42], 3)
    test_native_decoder.test_company_changes_no_bit(variant)
    for context in (CONTEXT, CONTEXT + 1):
        test_native_decoder.test_tree_equals_the_chain_of_each_path(variant, 3, context)
    assert torch.equal(workload(made(name, num_threads=3), 4), workload(model, 4))
