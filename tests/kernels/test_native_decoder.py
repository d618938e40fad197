"""The native decoder: as close to float32 as torch's bfloat16, and bit-identical however a token
comes to be computed."""

import threading
from dataclasses import replace

import pytest
import torch

from server.kernels.cpu.decoder import NativeDecoder
from server.kernels.cpu.rows import best_tokens
from server.kernels.tree import LayerCache
from server.models.causal_lm import CausalLM
from server.models.config import RopeConfig
from server.models.llama import decoder_shape
from tests.kernels.native_models import (
    VARIANTS,
    decoder_ends,
    native_model,
    needs_native,
    random_tokens,
    random_weights,
    torch_model,
    without_native_library,
)
from tests.kernels.paged import Nodes, PagedModel, make_model, tree_batch
from tests.kernels.workload import (
    CONTEXT,
    TOKENS,
    TREE,
    TREE_TOKENS,
    error,
    one_by_one,
    path_to,
    workload,
)

pytestmark = needs_native()

ROPE_SCALINGS = (
    RopeConfig(theta=1000.0, type="linear", factor=2.0),
    RopeConfig(theta=1000.0, type="dynamic", factor=4.0, original_max_position=16),
    RopeConfig(theta=1000.0, type="yarn", factor=4.0, original_max_position=16),
)


@pytest.mark.parametrize("block_size", [1, 3, 16])
@pytest.mark.parametrize("name", VARIANTS)
def test_error_is_that_of_torch_in_bfloat16(name: str, block_size: int) -> None:
    exact = workload(torch_model(name, torch.float32), block_size)
    plain = error(workload(torch_model(name, torch.bfloat16), block_size), exact)
    native = error(workload(native_model(name), block_size), exact)
    assert 0 < plain < 0.1 * exact.std(), "the yardstick itself is broken"
    assert native <= 1.5 * plain


@pytest.fixture(params=VARIANTS, scope="module")
def variant(request: pytest.FixtureRequest) -> tuple[CausalLM, torch.Tensor]:
    """A model of one thread, and its logits for TOKENS, one step per token."""
    model = native_model(request.param, num_threads=1)
    return model, one_by_one(model, TOKENS)


@pytest.mark.parametrize("block_size", [1, 3, 16])
@pytest.mark.parametrize("chunks", [[60], [1, 59], [7, 6, 5, 42], [49, 11]], ids=str)
def test_chunking_changes_no_bit(
    variant: tuple[CausalLM, torch.Tensor], chunks: list[int], block_size: int
) -> None:
    model, expected = variant
    assert torch.equal(PagedModel(model, block_size=block_size).run(TOKENS, chunks), expected)


@pytest.mark.parametrize("num_threads", [2, 3])
@pytest.mark.parametrize("name", VARIANTS)
def test_threads_change_no_bit(name: str, num_threads: int) -> None:
    expected = workload(native_model(name, num_threads=1), block_size=4)
    model = native_model(name, num_threads)
    for _ in range(5):
        assert torch.equal(workload(model, block_size=4), expected)


def test_company_changes_no_bit(variant: tuple[CausalLM, torch.Tensor]) -> None:
    """The sequence decodes between others: prefills, trees and chains of every length."""
    model, expected = variant
    pool = PagedModel(model, num_sequences=4, block_size=4)
    for start in range(0, 60, 3):
        mine = Nodes(0, start, TOKENS[start : start + 3])
        before = [Nodes(1, 0, random_tokens(start + 1)), Nodes(2, 0, TREE_TOKENS, TREE)]
        after = [Nodes(3, 0, random_tokens(90 - start))] if start % 2 else []
        first = sum(len(nodes.token_ids) for nodes in before[: start % 3])
        logits = pool.step(*before[: start % 3], mine, *after)
        assert torch.equal(logits[first : first + 3], expected[start : start + 3])


@pytest.mark.parametrize("context", [CONTEXT, CONTEXT + 1])
@pytest.mark.parametrize("block_size", [1, 3, 16])
def test_tree_equals_the_chain_of_each_path(
    variant: tuple[CausalLM, torch.Tensor], block_size: int, context: int
) -> None:
    """Behind odd and even numbers of tokens: attention may add the values of positions in pairs."""
    model, _ = variant
    pool = PagedModel(model, block_size=block_size)
    pool.run(TOKENS[:context], [context])
    tree = pool.step(Nodes(0, context, TREE_TOKENS, TREE))
    for node in range(len(TREE)):
        path = path_to(node)
        chain = pool.step(Nodes(0, context, [TREE_TOKENS[i] for i in path]))
        assert torch.equal(tree[path], chain)


def test_accepted_leaves_moved_to_their_slots(variant: tuple[CausalLM, torch.Tensor]) -> None:
    """Path 0 4 6 7 is accepted: each node's KV is copied from its tree slot to its place."""
    model, _ = variant
    path, bonus = path_to(7), [11, 12]
    tokens = [*TOKENS[:CONTEXT], *(TREE_TOKENS[i] for i in path), *bonus]
    pool = PagedModel(model, block_size=4)
    pool.run(TOKENS[:CONTEXT], [CONTEXT])
    pool.step(Nodes(0, CONTEXT, TREE_TOKENS, TREE))
    for depth, node in enumerate(path):
        pool.move(0, CONTEXT + node, CONTEXT + depth)
    after = pool.step(Nodes(0, CONTEXT + len(path), bonus))
    assert torch.equal(after, one_by_one(model, tokens)[-len(bonus) :])


def test_two_models_on_two_threads() -> None:
    """A draft beside the target, with another number of threads: each computes as if alone."""
    models = [native_model("mha-64", 2), native_model("all-96", 3)]
    expected = [workload(model, block_size=4) for model in models]
    results: list[list[torch.Tensor]] = [[], []]

    def run(index: int) -> None:
        for _ in range(8):
            results[index].append(workload(models[index], block_size=4))

    threads = [threading.Thread(target=run, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result, right in zip(results, expected, strict=True):
        assert len(result) == 8
        assert all(torch.equal(logits, right) for logits in result)


def test_models_come_and_go() -> None:
    expected = one_by_one(native_model("mha-64"), TOKENS[:3])
    for _ in range(20):
        assert torch.equal(one_by_one(native_model("mha-64"), TOKENS[:3]), expected)


def decoder_call(dtype: torch.dtype = torch.bfloat16, num_caches: int = 1) -> torch.Tensor:
    """One row through a decoder without layers' weights set; refused before it runs."""
    config = VARIANTS["mha-64"]
    decoder = NativeDecoder(
        decoder_shape(config), decoder_ends(config), quantized=False, num_threads=1
    )
    pool = torch.zeros(2, 2, 4, 2, 64, dtype=dtype)
    caches = [LayerCache(*pool)] * num_caches
    batch = tree_batch(torch.tensor([[0, 1]]), 4, (Nodes(0, 0, [1]),))
    return decoder(torch.tensor([1]), caches, batch)


def test_wrong_caches_are_refused() -> None:
    with pytest.raises(ValueError, match="1 caches for 2 layers"):
        decoder_call()
    with pytest.raises(ValueError, match="float32"):
        decoder_call(dtype=torch.float32, num_caches=2)


def test_wrong_embedding_is_refused() -> None:
    config = VARIANTS["mha-64"]
    ends = decoder_ends(config, torch.float32)
    with pytest.raises(ValueError, match="bfloat16"):
        NativeDecoder(decoder_shape(config), ends, quantized=False, num_threads=1)


@pytest.mark.parametrize("scaling", ROPE_SCALINGS, ids=lambda rope: rope.type)
def test_rotary_angles_of_every_kind(scaling: RopeConfig) -> None:
    """Far beyond the trained context too, where `dynamic` frequencies grow with each position."""
    config = replace(VARIANTS["mha-64"], rope=scaling)
    weights = random_weights("mha-64")
    tokens = random_tokens(60)
    native = PagedModel(make_model(config, weights, torch.bfloat16)).run(tokens, [20] + [1] * 40)
    with without_native_library():
        exact = PagedModel(make_model(config, weights, torch.float32)).run(tokens, [20] + [1] * 40)
        rounded = PagedModel(make_model(config, weights, torch.bfloat16))
        usual = (rounded.run(tokens, [20] + [1] * 40) - exact).square().mean().sqrt()
    assert (native - exact).square().mean().sqrt() < 1.5 * usual


@pytest.mark.parametrize("vocab", [1, 15, 16, 17, 101, 49152])
def test_best_tokens(vocab: int) -> None:
    """The first among equals, wherever it stands; -1 for a row with NaN, wherever that stands."""
    generator = torch.Generator().manual_seed(vocab)
    logits = torch.randn(40, vocab, generator=generator).mul(2).round()
    logits[0] = -torch.inf
    broken = torch.randint(vocab, (10,), generator=generator).tolist()
    for row, column in enumerate(broken, start=20):
        logits[row, column] = torch.nan
    expected = logits.numpy().argmax(axis=-1).tolist()
    expected[20:30] = [-1] * 10
    assert best_tokens(logits) == expected
