"""A GliDe draft's sizes and weights as the fused kernel takes them."""

from typing import NamedTuple

import torch

from server.kernels.quantized import QuantizedWeight, Weight
from server.kernels.types import GlideShape, GlideWeights
from server.models.config import ModelConfig
from server.models.glide_config import GlideConfig
from server.models.glide_layer import GlideLayer, layer_config
from server.models.layers import FusedLinear
from server.models.llama import decoder_shape
from server.models.quantization import DRAFT_QUANTIZATION


def glide_shape(config: GlideConfig, target: ModelConfig) -> GlideShape:
    return GlideShape(
        own=decoder_shape(layer_config(config)),
        cross_heads=target.num_heads,
        cross_kv_heads=target.num_kv_heads,
        cross_head_dim=target.head_dim,
        target_hidden=target.hidden_size if config.glimpse_hidden else 0,
    )


class Ends(NamedTuple):
    """What a draft has before and behind its layer."""

    embedding: torch.Tensor
    """[vocab, hidden]"""
    hidden_proj: FusedLinear | None
    delays: torch.Tensor
    """[max_delay, hidden]"""
    final_norm: torch.Tensor | None
    head: Weight
    """[draft_vocab, hidden]; where it is quantized, all the draft's weights are."""
    token_ids: torch.Tensor
    """[draft_vocab] int64: the token behind each row of the head."""


def take_weights(layer: GlideLayer, ends: Ends) -> GlideWeights:
    """Hands a one-layer draft's weights over; its layer itself can't run then."""
    quantization = DRAFT_QUANTIZATION if isinstance(ends.head, QuantizedWeight) else None
    glimpse = layer.glimpse
    if glimpse is None:
        raise RuntimeError("the fused kernel reads at least one layer of the target")
    hidden_proj = None
    if ends.hidden_proj is not None:
        hidden_proj = ends.hidden_proj.take_weight(quantization)
    return GlideWeights(
        layer=layer.take_weights(quantization),
        glimpsed=glimpse.layers,
        windows=glimpse.windows,
        cross_norm=None if glimpse.norm is None else glimpse.norm.weight,
        cross_query=glimpse.query.take_weight(quantization),
        cross_query_bias=glimpse.query.bias,
        cross_output=glimpse.output.take_weight(quantization),
        final_norm=ends.final_norm,
        head=ends.head,
        token_ids=ends.token_ids,
        embedding=ends.embedding,
        hidden_proj=hidden_proj,
        delays=ends.delays,
    )
