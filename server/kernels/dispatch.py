"""The kernels that models call, chosen for the machine. One signature each, `reference`'s."""

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Protocol

import torch

from server.kernels import reference
from server.kernels.cpu import decoder as native_decoder
from server.kernels.cpu import linear as native_linear
from server.kernels.cpu import rows as native_rows
from server.kernels.cpu.attention import NativeAttention, supports_attention
from server.kernels.cpu.glide import NativeGlide, supports_glide
from server.kernels.linear import LinearFn, can_pack, packed_linear, reference_linear
from server.kernels.quantized import BlockWeight, Weight
from server.kernels.tree import LayerCache, TreeBatch
from server.kernels.types import (
    DecoderEnds,
    DecoderShape,
    ForwardFn,
    GlideShape,
    GlideWeights,
    LayerWeights,
    ScoredAttention,
    TokenDraw,
)

TRITON_ON_CPU = False
"""For tests: whether to use the Triton kernels on a CPU too, in Triton's interpreter."""

_LARGEST_HEAD = 256
"""Largest head_dim of the Triton attention: a program keeps a tile of queries and one of keys."""


class Kernels(Protocol):
    """A set of kernels: the functions of `reference`, where each is described."""

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor: ...

    def add_rms_norm(
        self, x: torch.Tensor, update: torch.Tensor, weight: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor]: ...

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor: ...

    def rotary(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor: ...

    def rotate_and_write(
        self,
        rotated: torch.Tensor,
        values: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        cache: LayerCache,
        slots: torch.Tensor,
    ) -> torch.Tensor: ...

    def tree_attention(
        self, query: torch.Tensor, cache: LayerCache, batch: TreeBatch, window: int | None
    ) -> torch.Tensor: ...

    def glimpse_attention(
        self,
        query: torch.Tensor,
        caches: Sequence[LayerCache],
        batch: TreeBatch,
        windows: Sequence[int | None],
    ) -> torch.Tensor: ...

    def copy_kv(
        self, caches: Sequence[LayerCache], sources: torch.Tensor, targets: torch.Tensor
    ) -> None: ...

    def top_candidates(
        self, logits: torch.Tensor, count: int
    ) -> tuple[torch.Tensor, torch.Tensor]: ...

    def argmax(self, logits: torch.Tensor) -> torch.Tensor: ...

    def draw(
        self,
        logits: torch.Tensor,
        temperatures: torch.Tensor,
        keep: torch.Tensor | None,
        seeds: torch.Tensor,
        positions: torch.Tensor,
    ) -> torch.Tensor: ...


def kernels_for(tensor: torch.Tensor) -> Kernels:
    """Triton's kernels on a GPU; torch's elsewhere, or where Triton is not installed."""
    return _triton() or reference if tensor.is_cuda or TRITON_ON_CPU else reference


def attention_for(query: torch.Tensor) -> Kernels:
    """The kernels that take the query's head_dim (its last dimension) for attention."""
    return kernels_for(query) if query.shape[-1] <= _LARGEST_HEAD else reference


def native_attention(device: torch.device, dtype: torch.dtype) -> ScoredAttention | None:
    """Attention by native kernels over a cache in this precision; None where there are none."""
    if TRITON_ON_CPU or not supports_attention(device, dtype):
        return None
    return NativeAttention(torch.get_num_threads())


@cache
def _triton() -> Kernels | None:
    try:
        from server.kernels.triton import all as kernels
    except ModuleNotFoundError:
        return None
    return kernels


def gpu_kernels() -> str:
    """The name of the kernels that run on a GPU, for people."""
    return "torch" if _triton() is None else "Triton"


def has_native_products(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether `linear` multiplies by native kernels there, which have threads of their own."""
    return native_linear.supports_products(device, dtype)


def linear(weight: Weight, bias: torch.Tensor | None, dtype: torch.dtype | None = None) -> LinearFn:
    """A linear layer. weight: [out_features, in_features]; bias: [out_features] or None; dtype: the
    activations' type, needed for quantized weights, which only the fused kernels multiply as they
    are."""
    if isinstance(weight, BlockWeight):
        weight = weight.dequantize().to(dtype)
    if native_linear.supports_linear(weight):
        return _native_linear(weight, bias)
    if can_pack(weight):
        return packed_linear(weight, bias)
    return reference_linear(weight, bias)


def _native_linear(weight: torch.Tensor, bias: torch.Tensor | None) -> LinearFn:
    """Like `reference_linear`, with a copy of the weight; the caller may drop its own."""
    product, added = native_linear.NativeLinear(weight, torch.get_num_threads()), bias

    def apply(x: torch.Tensor) -> torch.Tensor:
        y = product(x)
        return (y if added is None else y.add_(added)).to(x.dtype)

    return apply


def logits_linear(weight: Weight, dtype: torch.dtype | None = None) -> LinearFn:
    """The head: weight [vocab, hidden]; its result is float32."""
    if native_linear.supports_linear(weight):
        return native_linear.NativeLinear(weight, torch.get_num_threads())
    apply = linear(weight, None, dtype)
    return lambda x: apply(x).float()


def greedy_tokens(logits: torch.Tensor, processed: torch.Tensor) -> list[int]:
    """The most probable token of each row [rows, vocab], the first among equals.

    Args:
        logits: of the model.
        processed: the same, or with penalties and masks; tokens are those of these.

    Raises:
        ValueError: a row of the model's has NaN: its weights or its precision are broken.
    """
    if native_rows.supports_logits(logits) and native_rows.supports_logits(processed):
        best = native_rows.best_tokens(processed)
        checked = best if processed is logits else native_rows.best_tokens(logits)
        is_broken = min(checked, default=0) < 0
    else:
        best = kernels_for(logits).argmax(processed).tolist()
        is_broken = bool(logits.sum().isnan())  # 20 times cheaper than isnan().any()
    if is_broken:
        raise ValueError("the model computed NaN; its weights or its dtype are unusable")
    return best


def native_draw(logits: torch.Tensor) -> Callable[[Sequence[TokenDraw]], list[int]] | None:
    """What draws a token of each row [rows, vocab] in a native call, vocab for rows that have no
    distribution; None where there are no native kernels for these logits."""
    if TRITON_ON_CPU or not native_rows.supports_logits(logits):
        return None
    return partial(native_rows.draw_tokens, logits)


def fused_decoder(
    shape: DecoderShape, ends: DecoderEnds, sample: Weight, layers: Iterator[LayerWeights]
) -> ForwardFn | None:
    """A model from tokens to final hidden states as one call, or None where the machine has only
    the single kernels.

    Args:
        sample: any of the weights, for its format and device.
        layers: read one layer at a time, so that the model is never held twice.
    """
    if not native_decoder.supports(shape, sample):
        return None
    quantized = isinstance(sample, BlockWeight)
    decoder = native_decoder.NativeDecoder(shape, ends, quantized, torch.get_num_threads())
    for index in range(shape.num_layers):
        decoder.set_layer(index, next(layers))
    return decoder


def fused_glide(
    shape: GlideShape, sample: Weight, take_weights: Callable[[], GlideWeights]
) -> NativeGlide | None:
    """A one-layer draft as single calls, or None where the machine has only the single kernels.

    Args:
        sample: any of the weights, for its format and device.
        take_weights: returns the weights, which are copied, and drops its references to them.
    """
    if not supports_glide(shape, sample):
        return None
    return NativeGlide(shape, take_weights(), torch.get_num_threads())
