"""The Llama family over the paged cache: Llama and Vicuna (MHA), Mistral (GQA, sliding window),
Qwen2 (q, k, v bias), Qwen3 (q/k norm), SmolLM2.

One formulation for prefill, decoding and speculation: every row is a node of some sequence's
token tree (`kernels/tree.py`). The model does not know which.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from server.kernels import dispatch as kernels
from server.kernels.dispatch import attention_for, kernels_for
from server.kernels.linear import LinearFn
from server.kernels.quantized import Weight
from server.kernels.tree import LayerCache, TreeBatch
from server.kernels.types import DecoderFn, DecoderShape, LayerWeights
from server.models.config import ModelConfig
from server.models.layers import FusedLinear, Placement, RMSNorm, Slots
from server.models.quantization import Quantization
from server.models.rope import RotaryEmbedding
from server.models.shard import Reduce, Shard
from server.models.slices import Slice, Slices, attention_slices, columns, mlp_slices, slices_of


class Attention(nn.Module):
    """Rotary grouped-query attention of one layer; writes the rows' KV, then attends.

    Args:
        config: with this rank's heads.
        reduce: completes the output where other ranks have other heads.
    """

    def __init__(
        self, config: ModelConfig, index: int, placement: Placement, reduce: Reduce | None = None
    ) -> None:
        super().__init__()
        prefix = f"model.layers.{index}.self_attn"
        query_size = config.num_heads * config.head_dim
        kv_size = config.num_kv_heads * config.head_dim
        self.num_heads, self.num_kv_heads = config.num_heads, config.num_kv_heads
        self.head_dim = config.head_dim
        self.window = config.sliding_windows[index] if config.sliding_windows else None
        self.qkv = FusedLinear(
            config.hidden_size,
            {f"{prefix}.q_proj": query_size, f"{prefix}.k_proj": kv_size}
            | {f"{prefix}.v_proj": kv_size},
            config.attention_bias,
            placement,
        )
        self.output = FusedLinear(
            query_size,
            {f"{prefix}.o_proj": config.hidden_size},
            config.output_bias,
            placement,
            reduce,
        )
        self.query_norm = self.key_norm = None
        if config.qk_norm:
            self.query_norm = RMSNorm(config.head_dim, config.rms_norm_eps, placement)
            self.key_norm = RMSNorm(config.head_dim, config.rms_norm_eps, placement)

    def forward(
        self, x: torch.Tensor, cos_sin: tuple[torch.Tensor, torch.Tensor],
        cache: LayerCache, batch: TreeBatch,
    ) -> torch.Tensor:  # fmt: skip
        """[rows, hidden] -> [rows, hidden]"""
        qkv = self.qkv(x).view(len(x), -1, self.head_dim)
        rotated, values = qkv.split((self.num_heads + self.num_kv_heads, self.num_kv_heads), dim=1)
        if self.query_norm is not None and self.key_norm is not None:
            query, keys = rotated.split((self.num_heads, self.num_kv_heads), dim=1)
            rotated = torch.cat((self.query_norm(query), self.key_norm(keys)), dim=1)
        query = kernels_for(x).rotate_and_write(rotated, values, *cos_sin, cache, batch.slots)
        attended = attention_for(query).tree_attention(query, cache, batch, self.window)
        return self.output(attended.reshape(len(x), -1))


class DecoderLayer(nn.Module):
    """Attention and SwiGLU, each behind a norm and added to the residual stream.

    Args:
        config: of the whole model, whatever the placement's shard.
    """

    def __init__(self, config: ModelConfig, index: int, placement: Placement) -> None:
        super().__init__()
        prefix = f"model.layers.{index}"
        shard = placement.shard
        splits_heads = shard.splits_heads(config.num_heads, config.num_kv_heads)
        config = local_config(config, shard)
        hidden, inner = config.hidden_size, config.intermediate_size
        self.prefix = prefix
        self.attention_norm = RMSNorm(hidden, config.rms_norm_eps, placement)
        reduce = shard.reduce if splits_heads else None
        self.attention = Attention(config, index, placement, reduce)
        self.mlp_norm = RMSNorm(hidden, config.rms_norm_eps, placement)
        self.gate_up = FusedLinear(
            hidden,
            {f"{prefix}.mlp.gate_proj": inner, f"{prefix}.mlp.up_proj": inner},
            config.mlp_bias,
            placement,
        )
        self.down = FusedLinear(
            inner, {f"{prefix}.mlp.down_proj": hidden}, config.mlp_bias, placement, shard.reduce
        )

    def slots(self) -> Slots:
        slots = {
            f"{self.prefix}.input_layernorm.weight": self.attention_norm.weight.data,
            f"{self.prefix}.post_attention_layernorm.weight": self.mlp_norm.weight.data,
        }
        attention = self.attention
        if attention.query_norm is not None and attention.key_norm is not None:
            slots[f"{self.prefix}.self_attn.q_norm.weight"] = attention.query_norm.weight.data
            slots[f"{self.prefix}.self_attn.k_norm.weight"] = attention.key_norm.weight.data
        for linear in (attention.qkv, attention.output, self.gate_up, self.down):
            slots |= linear.slots()
        return slots

    def freeze(self, quantization: Quantization | None = None) -> None:
        for linear in (self.attention.qkv, self.attention.output, self.gate_up, self.down):
            linear.freeze(quantization)

    def take_weights(self, quantization: Quantization | None = None) -> LayerWeights:
        """Hands the layer's weights over to a fused decoder; the layer itself can't run then."""
        attention = self.attention
        query_norm, key_norm = attention.query_norm, attention.key_norm
        return LayerWeights(
            attention_norm=self.attention_norm.weight,
            mlp_norm=self.mlp_norm.weight,
            query_norm=query_norm.weight if query_norm else None,
            key_norm=key_norm.weight if key_norm else None,
            qkv=attention.qkv.take_weight(quantization),
            output=attention.output.take_weight(quantization),
            gate_up=self.gate_up.take_weight(quantization),
            down=self.down.take_weight(quantization),
            qkv_bias=attention.qkv.bias,
            output_bias=attention.output.bias,
            gate_up_bias=self.gate_up.bias,
            down_bias=self.down.bias,
            window=attention.window,
        )

    def forward(
        self, x: torch.Tensor, cos_sin: tuple[torch.Tensor, torch.Tensor],
        cache: LayerCache, batch: TreeBatch,
    ) -> torch.Tensor:  # fmt: skip
        """[rows, hidden] -> [rows, hidden]"""
        attended = self.attention(self.attention_norm(x), cos_sin, cache, batch)
        x, normed = self.mlp_norm.add(x, attended)
        return x + self.mlp(normed)

    def mlp(self, normed: torch.Tensor) -> torch.Tensor:
        """SwiGLU. [rows, hidden] -> [rows, hidden]"""
        gate_up = self.gate_up(normed)
        return self.down(kernels_for(gate_up).silu_mul(gate_up))


def local_config(config: ModelConfig, shard: Shard) -> ModelConfig:
    """A layer's sizes on one rank. Heads that can't be shared out are all on every rank."""
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


def decoder_shape(config: ModelConfig) -> DecoderShape:
    """Sizes of a model's layers, for the native kernels."""
    return DecoderShape(
        num_layers=config.num_layers,
        hidden=config.hidden_size,
        inner=config.intermediate_size,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        qk_norm=config.qk_norm,
        eps=config.rms_norm_eps,
    )


class LlamaModel(nn.Module):
    """Embedding, decoder layers, final norm and head."""

    def __init__(self, config: ModelConfig, placement: Placement) -> None:
        super().__init__()
        self.config = config
        self.placement = placement
        num_tokens = len(placement.shard.span(config.vocab_size))
        self.embedding = placement.empty(num_tokens, config.hidden_size)
        self.layers = [DecoderLayer(config, index, placement) for index in range(config.num_layers)]
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, placement)
        self.head_weight: torch.Tensor | None = self.embedding
        if not config.tie_word_embeddings:
            self.head_weight = placement.empty(num_tokens, config.hidden_size)
        self.rotary = RotaryEmbedding(config.rope, config.head_dim, placement.device)
        self._apply_head: LinearFn | None = None
        self._fused_layers: DecoderFn | None = None

    def slots(self) -> Slots:
        """Every checkpoint tensor the model needs, by its Hugging Face name -> where it goes."""
        slots = {
            "model.embed_tokens.weight": self.embedding.data,
            "model.norm.weight": self.norm.weight.data,
        }
        if not self.config.tie_word_embeddings and self.head_weight is not None:
            slots["lm_head.weight"] = self.head_weight.data
        for layer in self.layers:
            slots |= layer.slots()
        return slots

    def slices(self) -> Slices:
        """What of these tensors this rank holds, where it is not all."""
        shard, vocab_size = self.placement.shard, self.config.vocab_size
        if shard.is_whole:
            return {}
        tokens = columns(shard.span(vocab_size), vocab_size)
        layout = decoder_layout(self.config, shard) | {"embed_tokens": tokens, "lm_head": tokens}
        return slices_of(self.slots(), layout)

    def ignorable(self, name: str) -> bool:
        """Checkpoint tensors that carry nothing the model lacks: stored rotary tables, and the
        head's copy of a tied embedding."""
        tied_head = self.config.tie_word_embeddings and name == "lm_head.weight"
        return tied_head or name.endswith("rotary_emb.inv_freq")

    def head(self, quantization: Quantization | None = None) -> Weight:
        """The head's weight [this rank's tokens, hidden]; only before freezing."""
        if self.head_weight is None:
            raise RuntimeError("the model is frozen already")
        weight = self.head_weight.data
        if quantization is None:
            return weight
        tied = self.config.tie_word_embeddings
        name = "model.embed_tokens.weight" if tied else "lm_head.weight"
        return quantization.of([name], weight)

    def freeze(self, quantization: Quantization | None = None) -> None:
        """To be called once after loading; moves weights to the machine's fastest layout.

        Args:
            quantization: of the linear layers; None keeps them as they are.
        """
        head = self.head(quantization)
        self._apply_head = kernels.logits_linear(head, self.placement.dtype)
        self.head_weight = None
        if self.placement.shard.is_whole:  # the fused layers know no collectives
            self._fused_layers = kernels.fused_decoder(
                decoder_shape(self.config),
                head,
                [partial(layer.take_weights, quantization) for layer in self.layers],
            )
        if self._fused_layers is None:
            for layer in self.layers:
                layer.freeze(quantization)

    @property
    def is_fused(self) -> bool:
        """Whether the layers run in native kernels, which bring their own threads."""
        return self._fused_layers is not None

    def forward(
        self, token_ids: torch.Tensor, caches: Sequence[LayerCache], batch: TreeBatch
    ) -> torch.Tensor:
        """token_ids [rows] -> final hidden states [rows, hidden], normed; writes the rows' KV."""
        x = self.placement.shard.lookup(self.embedding, token_ids, self.config.vocab_size)
        if self._fused_layers is not None:
            cos_sin = self.rotary(batch.positions, torch.float32)
            x = self._fused_layers(x, cos_sin, caches, batch)
            return self.norm(x).to(self.placement.dtype)
        cos_sin = self.rotary(batch.positions, x.dtype)
        for layer, cache in zip(self.layers, caches, strict=True):
            x = layer(x, cos_sin, cache, batch)
        return self.norm(x)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[rows, hidden] -> [rows, vocab_size] in float32; on ranks other than 0 their tokens'."""
        if self._apply_head is None:
            raise RuntimeError("freeze() the model after loading it")
        return self.placement.shard.gather_columns(self._apply_head(hidden), self.config.vocab_size)
