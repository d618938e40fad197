"""The GliDe draft as it is trained: whole sequences at once, the parameters of `models/glide.py`.

A one-layer draft's keys and values depend on token and position alone. So its rows do not depend
on each other, and each can be computed at a delay of its own, as if it were the delay-th one
drafted behind the target's last verified token:

    row at position p, delay d    holds token p, says token p + 1
    its own keys and values       of positions 0 .. p
    the target's                  of positions 0 .. p - d       (verified: p - d + 1 tokens)
    the target's final hidden     of position p - d
    what is looked up             behind the tokens 0 .. p - d + 1, d tokens further

Only rows that are learnt are computed beyond their keys and values.
"""

from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from server.errors import UnsupportedModelError
from server.models.config import ModelConfig, RopeConfig
from server.models.glide_config import GlideConfig
from server.models.rope import RotaryEmbedding
from weights.train.fit.batches import TrainBatch

CosSin = tuple[torch.Tensor, torch.Tensor]


class TrainableDraft(nn.Module):
    """Its state dict has the names and shapes of `GlideParameters.slots`, but for the table of ids.
    Everything is float32; products run in the precision of an enclosing autocast.

    Args:
        embedding: [vocab_size, hidden], the target's, frozen; not part of the state.

    Raises:
        UnsupportedModelError: a draft of several layers, or one with an embedding or a head of its
            own.
    """

    def __init__(self, config: GlideConfig, target: ModelConfig, embedding: torch.Tensor) -> None:
        super().__init__()
        if config.num_layers != 1 or config.own_embedding or config.own_head:
            reason = "drafts of one layer that share the target's embedding and head"
            raise UnsupportedModelError(f"training is implemented for {reason}")
        self.config = config
        self.embedding = embedding.float()
        self.model = _Model(config, target)
        if config.glimpse_hidden:
            self.hidden_proj = nn.Linear(target.hidden_size, config.hidden_size, bias=False)
            self.delay_embedding = nn.Embedding(config.max_delay, config.hidden_size)
        if config.copy_hint:
            self.copy_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
            self.match_embedding = nn.Embedding(config.max_match + 1, config.hidden_size)

    def forward(self, batch: TrainBatch, delays: torch.Tensor) -> torch.Tensor:
        """Runs the draft on a batch.

        Args:
            delays: [B, R], from 1 to the row's position.

        Returns:
            [true rows, hidden] after the final norm, sequence by sequence.
        """
        layer = cast(_Layer, self.model.layers[0])
        x = self.embedding[batch.token_ids]
        normed = layer.input_layernorm(x)
        x = _rows(x, batch.positions)
        x = x + layer.self_attn(normed, _rows(normed, batch.positions), batch.positions)
        if self.config.glimpse_hidden:
            x = x + self._seen(batch, delays)
        if self.config.copy_hint:
            x = x + self._copied(batch, delays)
        x = x + layer.glimpse(x, batch, delays)
        x = x[batch.is_row]
        return self.model.norm(x + layer.mlp(layer.post_attention_layernorm(x)))

    def _copied(self, batch: TrainBatch, delays: torch.Tensor) -> torch.Tensor:
        """[B, R, hidden]"""
        if batch.copy_sources is None:
            raise ValueError("this draft has a copy hint; nothing was looked up")
        hints = batch.copy_sources.behind(batch.token_ids, batch.roots(delays), delays)
        embedded = self.embedding[hints.token_ids.clamp(min=0)]
        embedded = embedded.masked_fill((hints.token_ids < 0)[..., None], 0.0)
        num_equal = hints.num_equal.clamp(max=self.config.max_match)
        return self.copy_proj(embedded) + self.match_embedding(num_equal)

    def _seen(self, batch: TrainBatch, delays: torch.Tensor) -> torch.Tensor:
        """[B, R, hidden]"""
        if batch.hidden is None:
            raise ValueError("this draft glimpses the target's hidden state; none was given")
        seen = self.hidden_proj(_rows(batch.hidden, batch.positions - delays).float())
        return seen + self.delay_embedding(delays.clamp(max=self.config.max_delay) - 1)


class _Model(nn.Module):
    """The level `model.` of the names."""

    def __init__(self, config: GlideConfig, target: ModelConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList([_Layer(config, target)])
        self.norm = _norm(config) if config.final_norm else nn.Identity()


class _Layer(nn.Module):
    def __init__(self, config: GlideConfig, target: ModelConfig) -> None:
        super().__init__()
        self.input_layernorm = _norm(config)
        self.self_attn = _SelfAttention(config, target)
        layers = config.glimpsed_layers(0)
        normed = config.cross_norm and layers
        self.cross_attention_layernorm = _norm(config) if normed else nn.Identity()
        parts = [_Cross(config, target) for _ in layers]
        self.cross_attn = parts[0] if len(parts) == 1 else nn.ModuleList(parts)
        windows = target.sliding_windows or (None,) * target.num_layers
        self.windows = [windows[layer] for layer in layers]
        self.cross_rotary = _rotary(config, target, own=False)
        self.post_attention_layernorm = _norm(config)
        self.mlp = _SwiGLU(config)

    def glimpse(self, x: torch.Tensor, batch: TrainBatch, delays: torch.Tensor) -> torch.Tensor:
        """x [B, R, hidden] -> [B, R, hidden]"""
        one = not isinstance(self.cross_attn, nn.ModuleList)
        parts = [self.cross_attn] if one else list(cast(nn.ModuleList, self.cross_attn))
        cos_sin = _angles(self.cross_rotary, batch.positions, x.dtype)
        x, total = self.cross_attention_layernorm(x), torch.zeros_like(x)
        visible = {
            window: _visible(batch.kv.shape[1], batch.positions, delays, window)
            for window in set(self.windows)
        }
        for index, (part, window) in enumerate(zip(parts, self.windows, strict=True)):
            total = total + part(x, cos_sin, batch.kv[:, :, index], visible[window])
        return total


class _SelfAttention(nn.Module):
    def __init__(self, config: GlideConfig, target: ModelConfig) -> None:
        super().__init__()
        hidden, self.head_dim = config.hidden_size, config.head_dim
        queries, keys = config.num_heads * self.head_dim, config.num_kv_heads * self.head_dim
        self.q_proj = nn.Linear(hidden, queries, bias=config.attention_bias)
        self.k_proj = nn.Linear(hidden, keys, bias=config.attention_bias)
        self.v_proj = nn.Linear(hidden, keys, bias=config.attention_bias)
        self.o_proj = nn.Linear(queries, hidden, bias=False)
        self.rotary = _rotary(config, target, own=True)

    def forward(self, x: torch.Tensor, rows: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """x [B, T, hidden], rows [B, R, hidden] at positions [B, R] -> [B, R, hidden]"""
        everywhere = torch.arange(x.shape[1], device=x.device)[None]
        query = _rotated(_heads(self.q_proj(rows), self.head_dim), self._angles(positions, x))
        keys = _rotated(_heads(self.k_proj(x), self.head_dim), self._angles(everywhere, x))
        values = _heads(self.v_proj(x), self.head_dim)
        visible = everywhere[:, None] <= positions[..., None]
        return self.o_proj(_attend(query, keys, values, visible))

    def _angles(self, positions: torch.Tensor, x: torch.Tensor) -> CosSin:
        return _angles(self.rotary, positions, x.dtype)


class _Cross(nn.Module):
    """Cross-attention over one of the target's layers."""

    def __init__(self, config: GlideConfig, target: ModelConfig) -> None:
        super().__init__()
        self.head_dim = target.head_dim
        size = target.num_heads * target.head_dim
        self.q_proj = nn.Linear(config.hidden_size, size, bias=config.cross_bias)
        self.o_proj = nn.Linear(size, config.hidden_size, bias=False)

    def forward(
        self, x: torch.Tensor, cos_sin: CosSin, kv: torch.Tensor, visible: torch.Tensor
    ) -> torch.Tensor:
        """x [B, R, hidden], kv [B, T, 2, kv_heads, head_dim], visible [B, R, T]
        -> [B, R, hidden]"""
        query = _rotated(_heads(self.q_proj(x), self.head_dim), cos_sin)
        keys, values = kv.transpose(1, 3).unbind(2)
        nothing = ~visible.any(dim=-1, keepdim=True)
        visible = visible | nothing  # a softmax over nothing is NaN, also in the gradient
        attended = _attend(query, keys.to(query.dtype), values.to(query.dtype), visible)
        return self.o_proj(attended.masked_fill(nothing, 0.0))


class _SwiGLU(nn.Module):
    def __init__(self, config: GlideConfig) -> None:
        super().__init__()
        hidden, inner = config.hidden_size, config.intermediate_size
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


def _norm(config: GlideConfig) -> nn.Module:
    return nn.RMSNorm(config.hidden_size, config.rms_norm_eps)


def _rotary(config: GlideConfig, target: ModelConfig, own: bool) -> RotaryEmbedding:
    device = torch.device("cpu")
    if own:
        return RotaryEmbedding(config.rope or target.rope, config.head_dim, device)
    rope = target.rope
    if config.cross_rope_theta is not None:
        rope = RopeConfig(theta=config.cross_rope_theta)
    return RotaryEmbedding(rope, target.head_dim, device)


def _rows(x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """[B, T, size] at [B, R] -> [B, R, size]"""
    return x.gather(1, positions[..., None].expand(-1, -1, x.shape[-1]))


def _heads(x: torch.Tensor, head_dim: int) -> torch.Tensor:
    """[B, N, heads * head_dim] -> [B, heads, N, head_dim]"""
    return x.unflatten(-1, (-1, head_dim)).transpose(1, 2)


def _angles(rotary: RotaryEmbedding, positions: torch.Tensor, dtype: torch.dtype) -> CosSin:
    """positions [B, N] -> cos, sin, each [B, 1, N, head_dim]"""
    rotary.frequencies = rotary.frequencies.to(positions.device)
    cos, sin = rotary(positions.flatten(), dtype)
    shape = (*positions.shape, -1)
    return cos.view(shape)[:, None], sin.view(shape)[:, None]


def _rotated(x: torch.Tensor, cos_sin: CosSin) -> torch.Tensor:
    """[B, heads, N, head_dim]"""
    cos, sin = cos_sin
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return (x * cos + turned * sin).to(x.dtype)


def _visible(
    num_tokens: int, positions: torch.Tensor, delays: torch.Tensor, window: int | None
) -> torch.Tensor:
    """[B, R, num_tokens] bool: which of the target's tokens the rows see."""
    at = torch.arange(num_tokens, device=positions.device)
    visible = at <= (positions - delays)[..., None]
    if window is not None:
        visible = visible & (at > (positions - window)[..., None])
    return visible


def _attend(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, visible: torch.Tensor
) -> torch.Tensor:
    """query [B, heads, R, head_dim], keys and values [B, kv_heads, T, head_dim],
    visible [B, R, T] -> [B, R, heads * head_dim]"""
    values = values.to(query.dtype)
    attended = F.scaled_dot_product_attention(
        query, keys.to(query.dtype), values, attn_mask=visible[:, None], enable_gqa=True
    )
    return attended.transpose(1, 2).flatten(2)
