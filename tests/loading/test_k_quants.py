"""A GGUF file with the mix of a Q4_K_M one, from the file to logits: blocks as they are, three
matrices of several kinds, and nothing dequantised that stays."""

import gc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from server.config import ModelSettings
from server.kernels.quantized import TYPES, QuantizedKind, StackedWeight
from server.loading.target import LoadedTarget, choose_form, load_target, locate_target
from server.models.decoder_layer import LayerParameters
from server.models.layers import Placement
from server.models.llama import LlamaParameters
from tests.kernels.block_weights import random_blocks
from tests.kernels.native_models import needs_native, random_tokens, without_native_library
from tests.kernels.paged import CPU, PagedModel
from tests.weights.conftest import write_file
from weights.quantization import describe_rounded

HIDDEN, INNER, HEADS, KV_HEADS, HEAD_DIM, VOCABULARY, LAYERS = 256, 512, 4, 2, 64, 300, 2
SETTINGS: dict[str, Any] = {
    "embedding_length": HIDDEN,
    "block_count": LAYERS,
    "feed_forward_length": INNER,
    "attention.head_count": HEADS,
    "attention.head_count_kv": KV_HEADS,
    "attention.key_length": HEAD_DIM,
}
SHAPES = {
    "attn_q": (HEADS * HEAD_DIM, HIDDEN),
    "attn_k": (KV_HEADS * HEAD_DIM, HIDDEN),
    "attn_v": (KV_HEADS * HEAD_DIM, HIDDEN),
    "attn_output": (HIDDEN, HEADS * HEAD_DIM),
    "ffn_gate": (INNER, HIDDEN),
    "ffn_up": (INNER, HIDDEN),
    "ffn_down": (HIDDEN, INNER),
}
Tensors = dict[str, Any]


def matrix(kind: QuantizedKind, outputs: int, inputs: int, seed: int) -> Any:
    """Blocks and their type; small enough for activations to keep their size."""
    return random_blocks(kind, outputs, inputs, seed).blocks.numpy(), TYPES[kind]


def mixed_tensors() -> Tensors:
    """In the first layer `v` and `down` have 6 bits, as in half of the layers of a Q4_K_M file; the
    tied embedding has 6 bits too. The second has an 8-bit `v` and Q5_K beside Q4_K."""
    tensors: Tensors = {
        "token_embd.weight": matrix("q6_k", VOCABULARY, HIDDEN, 0),
        "output_norm.weight": np.full(HIDDEN, 0.1, np.float32),
    }
    kinds: tuple[dict[str, QuantizedKind], ...] = (
        {"attn_v": "q6_k", "ffn_down": "q6_k"},
        {"attn_v": "q8_0", "attn_k": "q5_k", "ffn_up": "iq4_nl"},
    )
    for layer, others in enumerate(kinds):
        for norm in ("attn_norm", "ffn_norm"):
            tensors[f"blk.{layer}.{norm}.weight"] = np.full(HIDDEN, 0.1, np.float32)
        for seed, (name, shape) in enumerate(SHAPES.items()):
            blocks = matrix(others.get(name, "q4_k"), *shape, seed + 10 * layer)
            tensors[f"blk.{layer}.{name}.weight"] = blocks
    return tensors


def load(path: Path, cache: Path, dtype: torch.dtype = torch.bfloat16) -> LoadedTarget:
    settings = ModelSettings(model=str(path), cache_dir=cache)
    files = locate_target(settings, dtype, lambda line: None)
    placement = Placement(CPU, dtype)
    return load_target(files, placement, choose_form(files, placement, "auto"))


def layers_of(loaded: LoadedTarget) -> Sequence[LayerParameters]:
    assert isinstance(loaded.parameters, LlamaParameters)
    return loaded.parameters.layers


def written(folder: Path, **changes: Any) -> Path:
    tensors = mixed_tensors() | changes
    return write_file(folder / "mixed.gguf", settings=SETTINGS, tensors=tensors)


@pytest.fixture
def loaded(tmp_path: Path) -> Iterator[LoadedTarget]:
    yield load(written(tmp_path), tmp_path)


def floats_of_size(least: int) -> int:
    """Matrices of floats that are alive."""
    gc.collect()
    tensors = [x for x in gc.get_objects() if issubclass(type(x), torch.Tensor)]
    filled = [x for x in tensors if x.is_floating_point() and not x.is_meta]
    return sum(x.dim() == 2 and x.numel() >= least for x in filled)


@needs_native()
def test_the_form_is_the_files(loaded: LoadedTarget) -> None:
    assert loaded.form == "iq4_nl, q4_k, q5_k, q6_k and q8_0 weights in bfloat16"
    assert list(describe_rounded(loaded.quantization)) == []
    qkv = layers_of(loaded)[0].qkv.weight_in(loaded.quantization)
    assert isinstance(qkv, StackedWeight)
    assert [part.kind for part in qkv.parts] == ["q4_k", "q4_k", "q6_k"]


@needs_native()
def test_logits_are_those_of_the_dequantised_model(tmp_path: Path) -> None:
    """Within what 8-bit activations and bfloat16 KV differ by."""
    path, tokens = written(tmp_path), random_tokens(40)
    tokens = [token % VOCABULARY for token in tokens]
    native = load(path, tmp_path).freeze()
    assert native.is_fused
    with without_native_library():
        exact = load(path, tmp_path, torch.float32).freeze()
        plain = load(path, tmp_path).freeze()
    expected, rounded, actual = (
        PagedModel(model, block_size=4).run(tokens, [33, 1, 6]) for model in (exact, plain, native)
    )
    scale = float(expected.std())
    yardstick = float((rounded - expected).abs().mean())
    assert 0 < yardstick < 0.05 * scale, "the yardstick itself is broken"
    assert float((actual - expected).abs().mean()) <= 2 * yardstick


@needs_native()
def test_no_dequantised_copy_stays(tmp_path: Path) -> None:
    path = written(tmp_path)
    load(path, tmp_path)  # converts, and imports what it takes
    before = floats_of_size(HIDDEN * HIDDEN // 2)
    loaded = load(path, tmp_path)
    assert floats_of_size(HIDDEN * HIDDEN // 2) - before == 1, "more than the embedding is filled"
    model = loaded.freeze()
    assert not layers_of(loaded)
    assert floats_of_size(HIDDEN * HIDDEN // 2) - before == 1, "more than the embedding is left"
    assert model.is_fused


@needs_native()
@pytest.mark.parametrize(
    ("name", "bits"), [("Q3_K", "3.4"), ("MXFP4", "4.2"), ("IQ2_XXS", "2.1"), ("TQ1_0", "1.7")]
)
def test_other_blocks_are_said_with_their_cost(tmp_path: Path, name: str, bits: str) -> None:
    """And are rounded alone: their neighbours in a matrix stay as they are."""
    kind = gguf.GGMLQuantizationType[name]
    block_inputs, num_bytes = gguf.GGML_QUANT_SIZES[kind]
    rows = np.zeros((KV_HEADS * HEAD_DIM, HIDDEN // block_inputs * num_bytes), np.uint8)
    loaded = load(written(tmp_path, **{"blk.0.attn_v.weight": (rows, kind)}), tmp_path)
    assert list(describe_rounded(loaded.quantization)) == [
        f"1 matrix is stored as {name.lower()}, which the kernels do not multiply: rounded to "
        f"q8_0, 8.5 bits a weight instead of {bits}"
    ]
    qkv = layers_of(loaded)[0].qkv.weight_in(loaded.quantization)
    assert isinstance(qkv, StackedWeight)
    assert [part.kind for part in qkv.parts] == ["q4_k", "q4_k", "q8_0"]
