"""A decoder layer of the Llama family: its parameters, which a checkpoint fills, and the layer."""

from dataclasses import replace

import torch

from server.kernels.dispatch import attention_for, kernels_for
from server.kernels.reference import rotary
from server.kernels.tree import LayerCache, TreeBatch
from server.kernels.types import CosSin, LayerWeights, ScoredAttention, ScoreRules
from server.models.config import ModelConfig
from server.models.layers import FusedLinear, Placement, RMSNorm, Slots
from server.models.quantization import Quantization
from server.models.shard import Shard
from server.models.slices import Slice, attention_slices, mlp_slices


class LayerParameters:
    """The parameters of rotary grouped-query attention and SwiGLU, each behind a norm.

    Args:
        config: the whole model's config, whatever the placement's shard.
    """

    def __init__(self, config: ModelConfig, index: int, placement: Placement) -> None:
        self.prefix = f"model.layers.{index}"
        self.window = config.sliding_windows[index] if config.sliding_windows else None
        shard = placement.shard
        splits_heads = shard.splits_heads(config.num_heads, config.num_kv_heads)
        self.config = config = local_config(config, shard)
        hidden, inner, eps = config.hidden_size, config.intermediate_size, config.rms_norm_eps
        query_size = config.num_heads * config.head_dim
        kv_size = config.num_kv_heads * config.head_dim
        attention, mlp = f"{self.prefix}.self_attn", f"{self.prefix}.mlp"
        self.attention_norm = RMSNorm(hidden, eps, placement)
        self.qkv = FusedLinear(
            hidden,
            {f"{attention}.q_proj": query_size, f"{attention}.k_proj": kv_size}
            | {f"{attention}.v_proj": kv_size},
            config.attention_bias,
            placement,
        )
        self.query_norm = self.key_norm = None
        if config.qk_norm:
            self.query_norm = RMSNorm(config.head_dim, eps, placement)
            self.key_norm = RMSNorm(config.head_dim, eps, placement)
        self.output = FusedLinear(
            query_size,
            {f"{attention}.o_proj": hidden},
            config.output_bias,
            placement,
            shard.reduce if splits_heads else None,
        )
        self.mlp_norm = RMSNorm(hidden, eps, placement)
        self.gate_up = FusedLinear(
            hidden,
            {f"{mlp}.gate_proj": inner, f"{mlp}.up_proj": inner},
            config.mlp_bias,
            placement,
        )
        self.down = FusedLinear(
            inner, {f"{mlp}.down_proj": hidden}, config.mlp_bias, placement, shard.reduce
        )

    @property
    def linears(self) -> tuple[FusedLinear, ...]:
        return self.qkv, self.output, self.gate_up, self.down

    def slots(self) -> Slots:
        """Checkpoint tensor names -> what they fill."""
        slots = {
            f"{self.prefix}.input_layernorm.weight": self.attention_norm.weight,
            f"{self.prefix}.post_attention_layernorm.weight": self.mlp_norm.weight,
        }
        if self.query_norm is not None and self.key_norm is not None:
            slots[f"{self.prefix}.self_attn.q_norm.weight"] = self.query_norm.weight
            slots[f"{self.prefix}.self_attn.k_norm.weight"] = self.key_norm.weight
        for linear in self.linears:
            slots |= linear.slots()
        return slots

    def weights(self, quantization: Quantization | None) -> LayerWeights:
        """The weights in the form that a fused decoder takes."""
        return LayerWeights(
            attention_norm=self.attention_norm.weight,
            mlp_norm=self.mlp_norm.weight,
            query_norm=self.query_norm.weight if self.query_norm else None,
            key_norm=self.key_norm.weight if self.key_norm else None,
            qkv=self.qkv.weight_in(quantization),
            output=self.output.weight_in(quantization),
            gate_up=self.gate_up.weight_in(quantization),
            down=self.down.weight_in(quantization),
            qkv_bias=self.qkv.bias,
            output_bias=self.output.bias,
            gate_up_bias=self.gate_up.bias,
            down_bias=self.down.bias,
            window=self.window,
        )


class Attention:
    """Rotary grouped-query attention of one layer; writes the rows' KV, then attends.

    Args:
        attend: native attention, which layers may share; None where there is none.
    """

    def __init__(
        self,
        parameters: LayerParameters,
        quantization: Quantization | None,
        attend: ScoredAttention | None,
    ) -> None:
        config = parameters.config
        self.num_heads, self.num_kv_heads = config.num_heads, config.num_kv_heads
        self.head_dim = config.head_dim
        self.window = parameters.window
        self.attend, self.rules = attend, ScoreRules(config.head_dim**-0.5, self.window)
        self.qkv = parameters.qkv.freeze(quantization)
        self.query_norm, self.key_norm = parameters.query_norm, parameters.key_norm
        self.output = parameters.output.freeze(quantization)

    def __call__(
        self, x: torch.Tensor, cos_sin: CosSin, cache: LayerCache, batch: TreeBatch
    ) -> torch.Tensor:
        """[rows, hidden] -> [rows, hidden]"""
        qkv = self.qkv(x).view(len(x), -1, self.head_dim)
        rotated, values = qkv.split((self.num_heads + self.num_kv_heads, self.num_kv_heads), dim=1)
        if self.query_norm is not None and self.key_norm is not None:
            query, keys = rotated.split((self.num_heads, self.num_kv_heads), dim=1)
            rotated = torch.cat((self.query_norm(query), self.key_norm(keys)), dim=1)
        if self.attend is not None and batch.exact_lens is None:  # a host's step
            heads = (self.num_heads, self.num_kv_heads)
            query, keys = rotary(rotated, *cos_sin).split(heads, dim=1)
            query, keys, values = (_by_head(part) for part in (query, keys, values))
            attended = self.attend(query, keys, values, cache, batch, self.rules)
        else:
            query = kernels_for(x).rotate_and_write(rotated, values, *cos_sin, cache, batch.slots)
            attended = attention_for(query).tree_attention(query, cache, batch, self.window)
        return self.output(attended.reshape(len(x), -1))


def _by_head(x: torch.Tensor) -> torch.Tensor:
    """[rows, heads, dim] -> [1, heads, rows, dim]"""
    return x.transpose(0, 1).unsqueeze(0)


class DecoderLayer:
    """Attention and SwiGLU, each behind a norm and added to the residual stream. Its arguments are
    those of `Attention`."""

    def __init__(
        self,
        parameters: LayerParameters,
        quantization: Quantization | None,
        attend: ScoredAttention | None = None,
    ) -> None:
        self.attention_norm = parameters.attention_norm
        self.attention = Attention(parameters, quantization, attend)
        self.mlp_norm = parameters.mlp_norm
        self.gate_up = parameters.gate_up.freeze(quantization)
        self.down = parameters.down.freeze(quantization)

    def __call__(
        self, x: torch.Tensor, cos_sin: CosSin, cache: LayerCache, batch: TreeBatch
    ) -> torch.Tensor:
        """[rows, hidden] -> [rows, hidden]"""
        attended = self.attention(self.attention_norm(x), cos_sin, cache, batch)
        x, normed = self.mlp_norm.add(x, attended)
        return x + self.mlp(normed)

    def mlp(self, normed: torch.Tensor) -> torch.Tensor:
        """SwiGLU. [rows, hidden] -> [rows, hidden]"""
        gate_up = self.gate_up(normed)
        return self.down(kernels_for(gate_up).silu_mul(gate_up))


def local_config(config: ModelConfig, shard: Shard) -> ModelConfig:
    """A layer's sizes on one rank. Heads that can't be split over the ranks are all on each."""
    inner = len(shard.span(config.intermediate_size))
    if not shard.splits_heads(config.num_heads, config.num_kv_heads):
        return replace(config, intermediate_size=inner)
    return replace(
        config,
        intermediate_size=inner,
        num_heads=len(shard.span(config.num_heads)),
        num_kv_heads=len(shard.kv_heads(config.num_kv_heads)),
    )


def decoder_layout(config: ModelConfig, shard: Shard) -> dict[str, Slice]:
    """What a rank loads of a decoder layer's projections, for `slices_of`."""
    attention = attention_slices(
        "self_attn", shard, config.num_heads, config.num_kv_heads, config.head_dim
    )
    return attention | mlp_slices(shard, config.intermediate_size)
