"""A whole model from tokens to final hidden states, or one matrix product, as a single native call.

Weights in bfloat16 or quantized, bfloat16 KV, float32 residual stream. A row's result depends
neither on the other rows of the step nor on the number of threads (see layers.h), so tokens don't
change with batching, chunking or speculation.
"""

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import torch

from server.kernels.cpu import library as abi
from server.kernels.cpu.steps import (
    CachePointers,
    destroy_with,
    library,
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


def supports_linear(weight: Weight) -> bool:
    """Whether the native library multiplies this weight [outputs, inputs]."""
    if isinstance(weight, BlockWeight):
        return abi.native_library() is not None
    return supports_products(weight.device, weight.dtype) and weight.shape[1] % 2 == 0


def supports_products(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the native library multiplies such weights, where their inputs are even."""
    is_plain = dtype in (torch.bfloat16, torch.float32)
    return is_plain and device.type == "cpu" and abi.native_library() is not None


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
        self._library = library()
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


class NativeLinear:
    """x W^T with a float32 result. The weight [outputs, inputs] is copied.

    Attributes:
        dtype: what rows come in: the weight's, bfloat16 where that is in blocks.
        num_outputs, num_inputs: the weight's shape.
        is_in_blocks: whether the weight is in blocks.
    """

    def __init__(self, weight: Weight, num_threads: int) -> None:
        self.num_outputs, self.num_inputs = weight.shape
        is_float = isinstance(weight, torch.Tensor) and weight.dtype is torch.float32
        self.dtype = torch.float32 if is_float else torch.bfloat16
        self._library = library()
        self._handle = self._library.glidecape_linear_create(
            matrix(weight, self.dtype), self.num_outputs, self.num_inputs, num_threads
        )
        destroy_with(self, self._library.glidecape_linear_destroy, self._handle)
        self.is_in_blocks = isinstance(weight, BlockWeight)
        self._alone = NativeProducts((self,))

    @property
    def handle(self) -> int:
        """The native object, for calls that take several."""
        return self._handle

    def __call__(self, x: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """[rows, inputs] -> [rows, outputs] in float32, or rounded to bfloat16"""
        return self._alone(x, dtype)[0]


class NativeProducts:
    """Products of the same rows with several weights of one form, in one call.

    Args:
        linears: outlive this object.
    """

    def __init__(self, linears: Sequence[NativeLinear]) -> None:
        self._library = library()
        self._count, self._dtype = len(linears), linears[0].dtype
        self._num_inputs = linears[0].num_inputs
        self._widths = [linear.num_outputs for linear in linears]
        self._pointers = ctypes.c_void_p * len(linears)
        self._handles = self._pointers(*(linear.handle for linear in linears))

    def __call__(self, x: torch.Tensor, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
        """[rows, inputs] -> for each weight [rows, its outputs], float32 or rounded to bfloat16"""
        if x.shape != (len(x), self._num_inputs):
            raise ValueError(f"{self._num_inputs} inputs, not rows of shape {list(x.shape)}")
        x, num_rows = x.contiguous(), len(x)
        found = [torch.empty(num_rows, width, dtype=dtype) for width in self._widths]
        self._library.glidecape_linear_run(
            *(self._handles, self._count, pointer(x, self._dtype), num_rows),
            *(int(dtype is torch.bfloat16), self._pointers(*(y.data_ptr() for y in found))),
        )
        return found


def supports_norm(weight: torch.Tensor) -> bool:
    """Whether `NativeNorm` takes this weight, once in float32."""
    fits = len(weight) % 16 == 0 and weight.dtype in (torch.bfloat16, torch.float32)
    return fits and weight.device.type == "cpu" and abi.native_library() is not None


class NativeNorm:
    """x / rms(x) * weight, rounded once.

    Args:
        weight: [dim] float32
    """

    def __init__(self, weight: torch.Tensor, eps: float) -> None:
        self._weight, self._eps, self._dim = weight.contiguous(), eps, len(weight)
        self._address = pointer(self._weight, torch.float32)
        self._norm = library().glidecape_rms_norm

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[..., dim] in float32 or bfloat16 -> the same shape and precision"""
        x, dim = x.contiguous(), self._dim
        if x.shape[-1] != dim:
            raise ValueError(f"a weight of {dim} for rows of {x.shape[-1]}")
        y, is_float = torch.empty_like(x), x.dtype is torch.float32
        rows = pointer(x, torch.float32 if is_float else torch.bfloat16)
        sizes = (x.numel() // dim, dim, self._eps, int(is_float))
        self._norm(rows, self._address, *sizes, y.data_ptr())
        return y


def supports_best(logits: torch.Tensor) -> bool:
    """Whether `best_tokens` takes these logits on this machine."""
    plain = logits.device.type == "cpu" and logits.dtype is torch.float32
    return plain and logits.is_contiguous() and abi.native_library() is not None


def best_tokens(logits: torch.Tensor) -> list[int]:
    """The largest entry of each row [rows, vocab], the first among equals; -1 for rows with NaN."""
    num_rows, width = logits.shape
    best = (ctypes.c_int64 * num_rows)()
    library().glidecape_best(logits.data_ptr(), num_rows, width, ctypes.addressof(best))
    return list(best)
