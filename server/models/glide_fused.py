"""A GliDe draft's sizes and weights as the fused kernel takes them."""

from typing import TYPE_CHECKING

from server.kernels.cpu.glide import GlideShape, GlideWeights
from server.kernels.quantized import QuantizedWeight, Weight
from server.models.config import ModelConfig
from server.models.glide_config import GlideConfig
from server.models.glide_layer import layer_config
from server.models.llama import decoder_shape
from server.models.quantization import DRAFT_QUANTIZATION

if TYPE_CHECKING:
    from server.models.glide import GlideModel


def glide_shape(config: GlideConfig, target: ModelConfig) -> GlideShape:
    return GlideShape(
        own=decoder_shape(layer_config(config)),
        cross_heads=target.num_heads,
        cross_kv_heads=target.num_kv_heads,
        cross_head_dim=target.head_dim,
        target_hidden=target.hidden_size if config.glimpse_hidden else 0,
    )


def take_weights(model: "GlideModel", head: Weight) -> GlideWeights:
    """Hands a one-layer draft's weights over; its layer itself can't run then.

    Args:
        head: [draft_vocab, hidden]; where it is quantized, all are.
    """
    quantization = DRAFT_QUANTIZATION if isinstance(head, QuantizedWeight) else None
    (layer,) = model.layers
    glimpse = layer.glimpse
    if glimpse is None:
        raise RuntimeError("the fused kernel reads at least one layer of the target")
    if model.embedding is None:
        raise RuntimeError("the draft has no embedding yet")
    hidden_proj = None
    if model.hidden_proj is not None:
        hidden_proj = model.hidden_proj.take_weight(quantization)
    return GlideWeights(
        layer=layer.take_weights(quantization),
        glimpsed=glimpse.layers,
        windows=glimpse.windows,
        cross_norm=None if glimpse.norm is None else glimpse.norm.weight,
        cross_query=glimpse.query.take_weight(quantization),
        cross_query_bias=glimpse.query.bias,
        cross_output=glimpse.output.take_weight(quantization),
        final_norm=None if model.norm is None else model.norm.weight,
        head=head,
        token_ids=model.draft_token_ids,
        embedding=model.embedding,
        hidden_proj=hidden_proj,
        delays=model.delay_embedding,
    )
