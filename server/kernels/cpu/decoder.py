"""The whole decoder stack, or one matrix product, as a single native call.

bfloat16 weights and KV, float32 residual stream. A row's result depends neither on the other rows
of the step nor on the number of threads (see decoder.cpp), so tokens don't change with batching,
chunking or speculation.
"""

import ctypes
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from server.kernels.cpu import library as abi
from server.kernels.tree import LayerCache, TreeBatch


@dataclass(frozen=True, slots=True)
class DecoderShape:
    """Sizes of a Llama-family decoder."""

    num_layers: int
    hidden: int
    inner: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    qk_norm: bool
    eps: float


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer's weights: matrices [outputs, inputs], norms and biases [outputs]."""

    attention_norm: torch.Tensor
    mlp_norm: torch.Tensor
    query_norm: torch.Tensor | None
    key_norm: torch.Tensor | None
    qkv: torch.Tensor
    output: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor
    qkv_bias: torch.Tensor | None
    output_bias: torch.Tensor | None
    gate_up_bias: torch.Tensor | None
    down_bias: torch.Tensor | None
    window: int | None


def supports(shape: DecoderShape, weight: torch.Tensor) -> bool:
    """Whether the native decoder runs on this machine and takes these sizes and this precision."""
    return (
        supports_linear(weight)
        and shape.hidden % 16 == 0
        and shape.inner % 32 == 0
        and shape.head_dim % 32 == 0
        and shape.num_heads // shape.num_kv_heads <= 64
    )


def supports_linear(weight: torch.Tensor) -> bool:
    """weight: [outputs, inputs]"""
    on_cpu = weight.device.type == "cpu" and weight.dtype is torch.bfloat16
    return on_cpu and weight.shape[1] % 2 == 0 and abi.native_library() is not None


def _library() -> ctypes.CDLL:
    library = abi.native_library()
    if library is None:
        raise RuntimeError("the native kernels are not available; ask supports() first")
    return library


def _pointer(tensor: torch.Tensor | None, dtype: torch.dtype) -> int | None:
    if tensor is None:
        return None
    if tensor.dtype is not dtype or tensor.device.type != "cpu" or not tensor.is_contiguous():
        raise ValueError(
            f"native kernels take contiguous {dtype} tensors on the CPU here, not {tensor.dtype} "
            f"on {tensor.device} with strides {tensor.stride()}"
        )
    return tensor.data_ptr()


def _destroy_with(owner: object, destroy: Callable[[int], None], handle: int) -> None:
    # Not at exit: a daemon thread may be inside a step then.
    weakref.finalize(owner, destroy, handle).atexit = False


class NativeDecoder:
    """All layers of a decoder. Weights are copied in, one layer at a time; drop yours after it."""

    def __init__(self, shape: DecoderShape, num_threads: int) -> None:
        self.shape = shape
        sizes = (shape.num_layers, shape.hidden, shape.inner, shape.num_heads)
        native = abi.Shape(
            *sizes, shape.num_kv_heads, shape.head_dim, int(shape.qk_norm), shape.eps
        )
        self._handle = _library().glidecape_decoder_create(native, num_threads)
        _destroy_with(self, _library().glidecape_decoder_destroy, self._handle)
        self._caches: tuple[Sequence[LayerCache], ctypes.Array[abi.Cache]] | None = None

    def set_layer(self, index: int, weights: LayerWeights) -> None:
        """Packs one layer's weights."""
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
        layer = abi.Layer(
            qkv=_pointer(weights.qkv, torch.bfloat16),
            output=_pointer(weights.output, torch.bfloat16),
            gate_up=_pointer(weights.gate_up, torch.bfloat16),
            down=_pointer(weights.down, torch.bfloat16),
            window=weights.window or 0,
            **{name: _pointer(tensor, torch.float32) for name, tensor in vectors.items()},
        )
        _library().glidecape_decoder_set_layer(self._handle, index, layer)

    def __call__(
        self,
        x: torch.Tensor,
        cos_sin: tuple[torch.Tensor, torch.Tensor],
        caches: Sequence[LayerCache],
        batch: TreeBatch,
    ) -> torch.Tensor:
        """x [rows, hidden] -> residual stream after the last layer, [rows, hidden] float32;
        writes the rows' KV. cos, sin: [rows, 1, head_dim] float32. Parents come before their
        children in the trees."""
        residual = x.contiguous().to(torch.float32, copy=True)
        cos, sin = (table.contiguous() for table in cos_sin)
        contexts = torch.tensor(batch.context_lens)
        counts = torch.tensor(batch.node_counts)
        ancestors = None if batch.ancestors is None else batch.ancestors.to(torch.uint8)
        step = abi.Step(
            num_rows=len(x),
            num_sequences=len(batch.context_lens),
            max_blocks=batch.block_tables.shape[1],
            block_size=batch.block_size,
            max_nodes=0 if ancestors is None else ancestors.shape[1],
            positions=_pointer(batch.positions, torch.int64),
            slots=_pointer(batch.slots, torch.int64),
            block_tables=_pointer(batch.block_tables, torch.int64),
            context_lens=_pointer(contexts, torch.int64),
            node_counts=_pointer(counts, torch.int64),
            ancestors=_pointer(ancestors, torch.uint8),
            cos=_pointer(cos, torch.float32),
            sin=_pointer(sin, torch.float32),
        )
        _library().glidecape_decoder_run(
            self._handle, step, self._cache_pointers(caches), residual.data_ptr()
        )
        return residual

    def _cache_pointers(self, caches: Sequence[LayerCache]) -> "ctypes.Array[abi.Cache]":
        """Made once for a pool, which stays where it is."""
        if self._caches is None or self._caches[0] is not caches:
            if len(caches) != self.shape.num_layers:
                raise ValueError(f"{len(caches)} caches for {self.shape.num_layers} layers")
            pointers = [
                abi.Cache(_pointer(c.keys, torch.bfloat16), _pointer(c.values, torch.bfloat16))
                for c in caches
            ]
            self._caches = (caches, (abi.Cache * len(pointers))(*pointers))
        return self._caches[1]


class NativeLinear:
    """x W^T with float32 result. The weight [outputs, inputs] is copied in."""

    def __init__(self, weight: torch.Tensor, num_threads: int) -> None:
        self.num_outputs, num_inputs = weight.shape
        self._handle = _library().glidecape_linear_create(
            _pointer(weight, torch.bfloat16), self.num_outputs, num_inputs, num_threads
        )
        _destroy_with(self, _library().glidecape_linear_destroy, self._handle)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[rows, inputs] bfloat16 -> [rows, outputs] float32"""
        x = x.contiguous()
        y = torch.empty(len(x), self.num_outputs)
        rows = _pointer(x, torch.bfloat16)
        _library().glidecape_linear_run(self._handle, rows, len(x), y.data_ptr())
        return y
