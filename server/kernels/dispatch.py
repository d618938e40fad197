"""The kernels that models call, chosen for the machine. One signature each, `reference`'s."""

from collections.abc import Callable, Sequence

import torch

from server.kernels import reference
from server.kernels.cpu import decoder as native
from server.kernels.cpu.decoder import DecoderShape, LayerWeights
from server.kernels.cpu.glide import GlideShape, GlideWeights, NativeGlide, supports_glide
from server.kernels.linear import LinearFn, can_pack, packed_linear, reference_linear
from server.kernels.quantized import QuantizedWeight, Weight
from server.kernels.tree import LayerCache, TreeBatch

rms_norm = reference.rms_norm
silu_mul = reference.silu_mul
rotary = reference.rotary
write_kv = reference.write_kv
tree_attention = reference.tree_attention

CosSin = tuple[torch.Tensor, torch.Tensor]
DecoderFn = Callable[[torch.Tensor, CosSin, Sequence[LayerCache], TreeBatch], torch.Tensor]
"""(x [rows, hidden], (cos, sin) [rows, 1, head_dim] float32, caches, batch) -> [rows, hidden]"""


def linear(weight: Weight, bias: torch.Tensor | None, dtype: torch.dtype | None = None) -> LinearFn:
    """weight: [out_features, in_features], bias: [out_features] or None; dtype: of activations,
    needed for quantized weights, which only the fused kernels multiply as they are."""
    if isinstance(weight, QuantizedWeight):
        weight = weight.dequantize().to(dtype)
    if can_pack(weight):
        return packed_linear(weight, bias)
    return reference_linear(weight, bias)


def logits_linear(weight: Weight, dtype: torch.dtype | None = None) -> LinearFn:
    """The head: weight [vocab, hidden]; its result is float32."""
    if native.supports_linear(weight):
        return native.NativeLinear(weight, torch.get_num_threads())
    apply = linear(weight, None, dtype)
    return lambda x: apply(x).float()


def fused_decoder(
    shape: DecoderShape, sample: Weight, layers: Sequence[Callable[[], LayerWeights]]
) -> DecoderFn | None:
    """All decoder layers as one call, or None where the machine has only the single kernels.

    Args:
        sample: one of the weights, for its format and device.
        layers: each gives one layer's weights and forgets them, so that the model is never held
            twice.
    """
    if not native.supports(shape, sample):
        return None
    quantized = isinstance(sample, QuantizedWeight)
    decoder = native.NativeDecoder(shape, quantized, torch.get_num_threads())
    for index, take_weights in enumerate(layers):
        decoder.set_layer(index, take_weights())
    return decoder


def fused_glide(
    shape: GlideShape, sample: Weight, take_weights: Callable[[], GlideWeights]
) -> NativeGlide | None:
    """A one-layer draft as single calls, or None where the machine has only the single kernels.

    Args:
        sample: one of the weights, for its format and device.
        take_weights: gives the weights, which are copied, and forgets them.
    """
    if not supports_glide(shape, sample):
        return None
    return NativeGlide(shape, take_weights(), torch.get_num_threads())
