"""Attention of one layer over the paged cache as a single native call, for models whose products
are computed elsewhere.

As in the native decoder (`decoder.py`), a row's result depends neither on the other rows of the
step nor on the number of threads.
"""

from typing import NamedTuple

import torch

from server.kernels.cpu import abi, library
from server.kernels.cpu.steps import NativeStep, destroy_with, loaded_library, native_step, pointer
from server.kernels.tree import LayerCache, TreeBatch
from server.kernels.types import ScoreRules


def supports_attention(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether native attention runs over a cache in this precision on this device."""
    fits = device.type == "cpu" and dtype in (torch.bfloat16, torch.float32)
    return fits and library.native_library() is not None


class _Layer(NamedTuple):
    """A layer in the form of the C ABI, and the sinks that it points to."""

    native: abi.Attention
    sinks: torch.Tensor | None


class NativeAttention:
    """A `ScoredAttention`. One is for one thread at a time: what it works out of a step serves all
    layers that come with the same batch."""

    def __init__(self, num_threads: int) -> None:
        self._library = loaded_library()
        self._handle = self._library.glidecape_attention_create(num_threads)
        destroy_with(self, self._library.glidecape_attention_destroy, self._handle)
        self._batch: TreeBatch | None = None
        self._step: NativeStep | None = None
        self._layers = dict[tuple[object, ...], _Layer]()

    def __call__(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        cache: LayerCache,
        batch: TreeBatch,
        rules: ScoreRules,
    ) -> torch.Tensor:
        if self._step is None or batch is not self._batch:
            self._step, self._batch = native_step(batch), batch
            self._library.glidecape_attention_begin(self._handle, self._step.step)
        dtype, value_dim = cache.keys.dtype, values.shape[3]
        _, num_heads, num_rows, head_dim = query.shape
        key = (rules, num_heads, head_dim, keys.shape[1], value_dim, dtype)
        layer = self._layers.get(key)
        if layer is None:
            layer = self._layers[key] = _layer(*key)
        query, keys, values = (_with_whole_heads(x, dtype) for x in (query, keys, values))
        out = torch.empty(1, num_rows, num_heads, value_dim, dtype=dtype)
        call = abi.AttentionCall(
            *(_heads(query), _heads(keys), _heads(values)),
            *(pointer(cache.keys, dtype), pointer(cache.values, dtype), out.data_ptr()),
        )
        self._library.glidecape_attention_run(self._handle, self._step.step, layer.native, call)
        return out


def _layer(
    rules: ScoreRules,
    num_heads: int,
    head_dim: int,
    num_kv_heads: int,
    value_dim: int,
    dtype: torch.dtype,
) -> _Layer:
    sinks = None if rules.sinks is None else rules.sinks.detach().float().contiguous()
    native = abi.Attention(
        *(int(dtype is torch.float32), num_heads, num_kv_heads, head_dim, value_dim),
        *(rules.scale, rules.softcap or 0.0, rules.window or 0, rules.chunk or 0),
        pointer(sinks, torch.float32),
    )
    return _Layer(native, sinks)


def _with_whole_heads(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """[1, heads, rows, dim] in the cache's precision, the numbers of a head side by side."""
    x = x if x.dtype is dtype else x.to(dtype)
    return x if x.stride(3) == 1 else x.contiguous()


def _heads(x: torch.Tensor) -> abi.Heads:
    _, head_stride, row_stride, _ = x.stride()
    return abi.Heads(x.data_ptr(), row_stride, head_stride)
