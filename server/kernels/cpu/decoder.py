"""A whole model from tokens to final hidden states as a single native call.

Weights in bfloat16 or quantized, bfloat16 KV, float32 residual stream. A row's result depends
neither on the other rows of the step nor on the number of threads (see layers.h), so tokens don't
change with batching, chunking or speculation.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from server.kernels.cpu import abi
from server.kernels.cpu.linear import supports_linear
from server.kernels.cpu.steps import (
    CachePointers,
    destroy_with,
    loaded_library,
    matrix,
    native_step,
    pointer,
    rotary,
)
from server.kernels.quantized import GROUP, BlockWeight, Weight
from server.kernels.tree import LayerCache, TreeBatch
from server.kernels.types import DecoderEnds, DecoderShape, LayerWeights


def supports(shape: DecoderShape, weight: Weight) -> bool:
    """Whether the native decoder runs on this machine and takes these sizes and this format."""
    granule = GROUP if isinstance(weight, BlockWeight) else 16
    return (
        (isinstance(weight, BlockWeight) or weight.dtype is torch.bfloat16)
        and supports_linear(weight)
        and shape.hidden % granule == 0
        and shape.inner % 32 == 0
        and shape.head_dim % 32 == 0
        and shape.num_heads // shape.num_kv_heads <= 64
    )


class NativeLayer(NamedTuple):
    """A layer in the form of the C ABI, and the tensors that its pointers point to."""

    layer: abi.Layer
    kept: tuple[Weight | None, ...]


def native_layer(weights: LayerWeights) -> NativeLayer:
    """Pointers of one layer's weights."""
    vectors = {
        name: None if tensor is None else tensor.detach().float().contiguous()
        for name, tensor in (
            ("attention_norm", weights.attention_norm),
            ("mlp_norm", weights.mlp_norm),
            ("query_norm", weights.query_norm),
            ("key_norm", weights.key_norm),
            ("qkv_bias", weights.qkv_bias),
            ("output_bias", weights.output_bias),
            ("gate_up_bias", weights.gate_up_bias),
            ("down_bias", weights.down_bias),
        )
    }
    matrices = {
        "qkv": weights.qkv,
        "output": weights.output,
        "gate_up": weights.gate_up,
        "down": weights.down,
    }
    layer = abi.Layer(
        window=weights.window or 0,
        **{name: matrix(weight) for name, weight in matrices.items()},
        **{name: pointer(tensor, torch.float32) for name, tensor in vectors.items()},
    )
    return NativeLayer(layer, (*vectors.values(), *matrices.values()))


def native_shape(shape: DecoderShape) -> abi.Shape:
    sizes = (shape.num_layers, shape.hidden, shape.inner, shape.num_heads)
    return abi.Shape(*sizes, shape.num_kv_heads, shape.head_dim, int(shape.qk_norm), shape.eps)


class NativeDecoder:
    """A decoder. The layers' weights are copied, one layer at a time; callers may then drop
    theirs."""

    def __init__(
        self, shape: DecoderShape, ends: DecoderEnds, quantized: bool, num_threads: int
    ) -> None:
        self.shape = shape
        self._quantized = quantized
        self._embedding = ends.embedding.contiguous()
        final_norm = ends.final_norm.detach().float().contiguous()
        native = abi.Ends(
            pointer(self._embedding, torch.bfloat16),
            pointer(final_norm, torch.float32),
            rotary(ends.rotary),
        )
        self._library = loaded_library()
        self._handle = self._library.glidecape_decoder_create(
            native_shape(shape), native, int(quantized), num_threads
        )
        del final_norm  # it was copied
        destroy_with(self, self._library.glidecape_decoder_destroy, self._handle)
        self._caches = CachePointers()

    def set_layer(self, index: int, weights: LayerWeights) -> None:
        """Packs one layer's weights."""
        for weight in (weights.qkv, weights.output, weights.gate_up, weights.down):
            if isinstance(weight, BlockWeight) != self._quantized:
                raise ValueError("a decoder's weights are all quantized or all in bfloat16")
        native = native_layer(weights)
        self._library.glidecape_decoder_set_layer(self._handle, index, native.layer)

    def __call__(
        self, token_ids: torch.Tensor, caches: Sequence[LayerCache], batch: TreeBatch
    ) -> torch.Tensor:
        """A `ForwardFn`; its result is in bfloat16."""
        if len(caches) != self.shape.num_layers:
            raise ValueError(f"{len(caches)} caches for {self.shape.num_layers} layers")
        hidden = torch.empty(len(token_ids), self.shape.hidden, dtype=torch.bfloat16)
        native = native_step(batch)
        self._library.glidecape_decoder_run(
            *(self._handle, native.step, self._caches.of(caches)),
            *(pointer(token_ids, torch.int64), hidden.data_ptr()),
        )
        return hidden
