"""The native decoder with quantized weights: no further from the dequantized model than 8-bit
activations take it, and bit-identical however a token comes to be computed."""

from dataclasses import replace

import pytest
import torch

from server.kernels.cpu.decoder import NativeDecoder
from server.kernels.quantized import (
    QuantizedWeight,
    RoundedKind,
    StackedWeight,
    Weight,
    quantize,
)
from server.models.causal_lm import CausalLM
from server.models.layers import Placement
from server.models.llama import LlamaParameters, decoder_shape
from server.models.quantization import Quantization
from tests.kernels.native_models import (
    decoder_ends,
    needs_native,
    random_tokens,
    without_native_library,
)
from tests.kernels.paged import CPU, Nodes, PagedModel, make_model
from tests.kernels.quantized_models import (
    KINDS,
    VARIANTS,
    dequantized_model,
    fallback_model,
    quantized_model,
    random_weights,
)
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

CASES = [(name, kind) for name in VARIANTS for kind in KINDS]


@needs_native()
@pytest.mark.parametrize("block_size", [1, 16])
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_error_is_at_most_twice_that_of_torch_in_bfloat16(
    name: str, kind: RoundedKind, block_size: int
) -> None:
    """Against the same weights in float32. These activations have no large values, which is where
    their format is at its worst beside bfloat16."""
    exact = workload(dequantized_model(name, kind), block_size)
    plain = error(workload(dequantized_model(name, kind, torch.bfloat16), block_size), exact)
    model = quantized_model(name, kind)
    assert model.is_fused
    native = error(workload(model, block_size), exact)
    assert 0 < plain < 0.05 * exact.std(), "the yardstick itself is broken"
    assert native <= 2 * plain


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_fallback_is_torch_with_dequantized_weights(name: str, kind: RoundedKind) -> None:
    model = fallback_model(name, kind)
    assert not model.is_fused
    actual, exact = workload(model, 4), workload(dequantized_model(name, kind), 4)
    assert torch.equal(actual, workload(dequantized_model(name, kind, torch.bfloat16), 4))
    # 2.4 % at most when this was written, as for models that were never quantized.
    assert 0 < error(actual, exact) < 0.04 * exact.std()


@pytest.fixture(params=CASES, ids="-".join, scope="module")
def variant(request: pytest.FixtureRequest) -> tuple[CausalLM, torch.Tensor]:
    """A model of one thread, and its logits for TOKENS, one step per token."""
    model = quantized_model(*request.param, num_threads=1)
    return model, one_by_one(model, TOKENS)


@needs_native()
@pytest.mark.parametrize("block_size", [1, 16])
@pytest.mark.parametrize("chunks", [[60], [1, 59], [7, 6, 5, 42], [17, 16, 15, 12]], ids=str)
def test_chunking_changes_no_bit(
    variant: tuple[CausalLM, torch.Tensor], chunks: list[int], block_size: int
) -> None:
    model, expected = variant
    assert torch.equal(PagedModel(model, block_size=block_size).run(TOKENS, chunks), expected)


@needs_native()
@pytest.mark.parametrize("num_threads", [2, 3])
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_threads_change_no_bit(name: str, kind: RoundedKind, num_threads: int) -> None:
    expected = workload(quantized_model(name, kind, num_threads=1), block_size=4)
    model = quantized_model(name, kind, num_threads)
    for _ in range(3):
        assert torch.equal(workload(model, block_size=4), expected)


@needs_native()
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


@needs_native()
@pytest.mark.parametrize("block_size", [1, 16])
def test_tree_equals_the_chain_of_each_path(
    variant: tuple[CausalLM, torch.Tensor], block_size: int
) -> None:
    model, _ = variant
    pool = PagedModel(model, block_size=block_size)
    pool.run(TOKENS[:CONTEXT], [CONTEXT])
    tree = pool.step(Nodes(0, CONTEXT, TREE_TOKENS, TREE))
    for node in range(len(TREE)):
        path = path_to(node)
        chain = pool.step(Nodes(0, CONTEXT, [TREE_TOKENS[i] for i in path]))
        assert torch.equal(tree[path], chain)


STORED_KINDS: dict[str, RoundedKind] = {
    "q_proj": "q4_1", "k_proj": "q4_1", "v_proj": "q8_0", "o_proj": "q4_1", "gate_proj": "q4_1",
    "down_proj": "q8_0", "lm_head": "q8_0",
}  # fmt: skip
"""`up_proj` is in floats, in one matrix with `gate_proj`."""


@needs_native()
def test_stored_blocks_of_several_kinds_are_used_as_they_are() -> None:
    """Weights that are not stored are rounded from the floats. The other floats are zero: nothing
    may come from them."""
    config, floats = VARIANTS["mha-64"], dict(random_weights("mha-64"))
    meant, stored = dict(floats), dict[str, QuantizedWeight]()
    for name, weight in random_weights("mha-64").items():
        part = name.split(".")[-2]
        if part in STORED_KINDS:
            stored[name] = quantize(weight, STORED_KINDS[part])
            meant[name] = stored[name].dequantize()
            floats[name] = torch.zeros_like(weight)
        if part == "up_proj":
            meant[name] = quantize(weight, "q8_0").dequantize()
    model = make_model(config, floats, torch.bfloat16, Quantization("q8_0", stored))
    assert model.is_fused
    with without_native_library():
        exact = workload(make_model(config, meant, torch.float32), 4)
        plain = error(workload(make_model(config, meant, torch.bfloat16), 4), exact)
    assert error(workload(model, 4), exact) <= 2 * plain


@pytest.mark.parametrize("outputs", [(16, 8), (8, 16)])
def test_what_can_not_be_stacked_is_rounded(outputs: tuple[int, int]) -> None:
    """The kernels take 16 outputs of a kind at a time."""
    weights = [torch.randn(count, 64) for count in outputs]
    stored = {"a": quantize(weights[0], "q4_1"), "b": quantize(weights[1], "q8_0")}
    parts = {"a": outputs[0], "b": outputs[1]}
    found = Quantization("q8_0", stored).of(parts, torch.cat(weights))
    if outputs[0] == 16:
        assert isinstance(found, StackedWeight)
        assert found.parts == (stored["a"], stored["b"])
    else:
        # Of what the blocks mean: there may be no floats beside them.
        meant = torch.cat([weight.dequantize() for weight in stored.values()])
        assert isinstance(found, QuantizedWeight)
        assert torch.equal(found.blocks, quantize(meant, "q8_0").blocks)


@pytest.mark.parametrize(
    ("name", "stored_name"),
    [("mha-64", "lm_head.weight"), ("gqa3-32-tied", "model.embed_tokens.weight")],
)
def test_a_head_takes_its_stored_blocks(name: str, stored_name: str) -> None:
    """A tied one those of the embedding."""
    parameters = LlamaParameters(VARIANTS[name], Placement(CPU, torch.bfloat16))
    stored = {stored_name: quantize(random_weights(name)[stored_name], "q4_1")}
    head = parameters.head(Quantization("q8_0", stored))
    assert isinstance(head, QuantizedWeight)
    assert head.kind == "q4_1"
    assert torch.equal(head.blocks, stored[stored_name].blocks)


def parameters_of(name: str) -> LlamaParameters:
    parameters = LlamaParameters(VARIANTS[name], Placement(CPU, torch.bfloat16))
    for slot_name, slot in parameters.slots().items():
        slot.copy_(random_weights(name)[slot_name])
    return parameters


@needs_native()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("field", ["qkv", "output", "gate_up", "down"])
def test_mixing_quantized_and_plain_weights_is_refused(field: str, kind: RoundedKind) -> None:
    parameters = parameters_of("mha-64")
    all_plain = parameters.layers[0].weights(None)
    all_quantized = parameters.layers[0].weights(Quantization(kind))
    for quantized_decoder, most, odd in (
        (True, all_quantized, all_plain),
        (False, all_plain, all_quantized),
    ):
        shape, ends = decoder_shape(parameters.config), decoder_ends(parameters.config)
        decoder = NativeDecoder(shape, ends, quantized_decoder, num_threads=1)
        decoder.set_layer(0, most)
        part: Weight = getattr(odd, field)
        with pytest.raises(ValueError, match="all quantized or all in bfloat16"):
            decoder.set_layer(0, replace(most, **{field: part}))
