"""One layer of a GliDe draft: self-attention, glimpse, SwiGLU. The glimpse is cross-attention whose
keys and values are the target's own cache."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from server.kernels.dispatch import attention_for, kernels_for
from server.kernels.tree import LayerCache, TreeBatch
from server.kernels.types import CosSin
from server.models.config import ModelConfig
from server.models.decoder_layer import DecoderLayer, LayerParameters
from server.models.glide_config import GlideConfig
from server.models.layers import FusedLinear, Placement, RMSNorm, Slots


class GlideStep(NamedTuple):
    """What all layers of a step share."""

    cos_sin: CosSin
    """[rows, 1, draft head_dim] each."""
    cross_cos_sin: CosSin
    """[rows, 1, target head_dim] each."""
    batch: TreeBatch
    glimpse: TreeBatch
    """The same rows over the target's cache."""
    target_caches: Sequence[LayerCache]


class SummedLinear(FusedLinear):
    """Several projections whose results are summed: one product over their inputs side by side.

    Args:
        inputs: checkpoint name (without `.weight`) -> input features, in input order.
    """

    def __init__(self, inputs: dict[str, int], out_features: int, placement: Placement) -> None:
        parts, reduce = {"sum": out_features}, placement.shard.reduce
        super().__init__(sum(inputs.values()), parts, False, placement, reduce)
        self.inputs = inputs

    def slots(self) -> Slots:
        """Checkpoint tensor names -> the columns of the fused tensor they fill."""
        (whole,) = super().slots().values()
        pieces = whole.split(list(self.inputs.values()), dim=1)
        return {f"{name}.weight": piece for name, piece in zip(self.inputs, pieces, strict=True)}


class GlimpseParameters:
    """The parameters of one draft layer's cross-attention."""

    def __init__(
        self, config: GlideConfig, target: ModelConfig, index: int, placement: Placement
    ) -> None:
        self.prefix = f"model.layers.{index}"
        self.head_dim = target.head_dim
        # Of the target's heads those whose KV this rank has.
        self.num_heads = len(placement.shard.span(target.num_heads))
        self.layers = config.glimpsed_layers(index)
        windows = target.sliding_windows or (None,) * target.num_layers
        self.windows = [windows[layer] for layer in self.layers]
        self.norm = None
        if config.cross_norm:
            self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, placement)
        names = [f"{self.prefix}.cross_attn"]
        if len(self.layers) > 1:
            names = [f"{self.prefix}.cross_attn.{j}" for j in range(len(self.layers))]
        size = self.num_heads * target.head_dim
        queries = {f"{name}.q_proj": size for name in names}
        self.query = FusedLinear(config.hidden_size, queries, config.cross_bias, placement)
        outputs = {f"{name}.o_proj": size for name in names}
        self.output = SummedLinear(outputs, config.hidden_size, placement)

    def slots(self) -> Slots:
        slots = self.query.slots() | self.output.slots()
        if self.norm is not None:
            slots[f"{self.prefix}.cross_attention_layernorm.weight"] = self.norm.weight
        return slots


class Glimpse:
    """Cross-attention of one draft layer over one or more layers of the target's KV. The target's
    keys are rotated already; the queries are rotated at their own absolute positions."""

    def __init__(self, parameters: GlimpseParameters) -> None:
        self.head_dim, self.num_heads = parameters.head_dim, parameters.num_heads
        self.layers, self.windows = parameters.layers, parameters.windows
        self.norm = parameters.norm
        self.query = parameters.query.freeze()
        self.output = parameters.output.freeze()

    def __call__(self, x: torch.Tensor, step: GlideStep) -> torch.Tensor:
        """[rows, hidden] -> [rows, hidden]"""
        query = self.query(x if self.norm is None else self.norm(x))
        rotated = kernels_for(x).rotary(query.view(len(x), -1, self.head_dim), *step.cross_cos_sin)
        attended = attention_for(rotated).glimpse_attention(
            rotated.view(len(x), len(self.layers), self.num_heads, self.head_dim),
            [step.target_caches[layer] for layer in self.layers],
            step.glimpse,
            self.windows,
        )
        return self.output(attended.reshape(len(x), -1))


class GlideLayerParameters(LayerParameters):
    """The parameters of a decoder layer, and of a glimpse where it reads layers of the target."""

    def __init__(
        self, config: GlideConfig, target: ModelConfig, index: int, placement: Placement
    ) -> None:
        super().__init__(layer_config(config), index, placement)
        self.glimpse: GlimpseParameters | None = None
        if config.glimpsed_layers(index):
            self.glimpse = GlimpseParameters(config, target, index, placement)

    def slots(self) -> Slots:
        return super().slots() | (self.glimpse.slots() if self.glimpse is not None else {})


class GlideLayer(DecoderLayer):
    """A decoder layer with a glimpse between self-attention and SwiGLU; without one where the draft
    reads no target layer."""

    def __init__(self, parameters: GlideLayerParameters) -> None:
        super().__init__(parameters, None)
        self.glimpse = Glimpse(parameters.glimpse) if parameters.glimpse is not None else None

    def run(
        self, x: torch.Tensor, cache: LayerCache, step: GlideStep, hint: torch.Tensor | None
    ) -> torch.Tensor:
        """x [rows, hidden] -> [rows, hidden]; writes the rows' KV.

        hint: [rows, hidden], joins the residual stream after the self-attention, whose KV thus
        stays free of it.
        """
        x = x + self.attention(self.attention_norm(x), step.cos_sin, cache, step.batch)
        if hint is not None:
            x = x + hint
        if self.glimpse is not None:
            x = x + self.glimpse(x, step)
        return x + self.mlp(self.mlp_norm(x))

    def write(self, x: torch.Tensor, cos_sin: CosSin, cache: LayerCache, batch: TreeBatch) -> None:
        """Writes the rows' KV and computes nothing else. x: [rows, hidden]"""
        attention = self.attention
        qkv = attention.qkv(self.attention_norm(x)).view(len(x), -1, attention.head_dim)
        keys, values = qkv[:, attention.num_heads :].split(attention.num_kv_heads, dim=1)
        kernels_for(x).rotate_and_write(keys, values, *cos_sin, cache, batch.slots)


def layer_config(config: GlideConfig) -> ModelConfig:
    """The draft's layers as those of a Llama-family model, the glimpse left out."""
    return ModelConfig(
        architecture="glide",
        vocab_size=config.target.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        rms_norm_eps=config.rms_norm_eps,
        max_position=0,
        tie_word_embeddings=False,
        attention_bias=config.attention_bias,
    )
