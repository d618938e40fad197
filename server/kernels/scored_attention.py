"""Tree attention for layers that score otherwise than `tree_attention` does: a scale of their own,
soft-capped scores, attention sinks, chunks instead of windows.

Layers that differ in nothing but their scale use the machine's fastest kernels. The others are
computed here, in plain torch on every device.

bfloat16 on a CPU is computed here too, in float64. What torch gives for a row depends in its last
bits on the row's company; behind float64's last bits nothing of that is left when the result is
rounded to bfloat16, so that speculation changes no token.
"""

from dataclasses import dataclass

import torch

from server.kernels.dispatch import attention_for
from server.kernels.tree import LayerCache, TreeBatch
from server.kernels.tree_groups import TreeGroup, tree_groups


@dataclass(frozen=True, slots=True, eq=False)
class ScoreRules:
    """What a layer makes of its scores, query x key."""

    scale: float
    """Factor on every score."""
    window: int | None = None
    """A query sees its last `window` positions, itself included; None sees all."""
    chunk: int | None = None
    """A query sees the positions of its own chunk alone: chunk c is [c x chunk, (c + 1) x chunk);
    None has no chunks."""
    softcap: float | None = None
    """Scores become softcap x tanh(score / softcap); None leaves them."""
    sinks: torch.Tensor | None = None
    """[num_heads]: a score per head that joins the softmax and brings no value."""

    @property
    def is_plain(self) -> bool:
        """Whether `tree_attention` computes it, once the query is scaled."""
        return self.chunk is None and self.softcap is None and self.sinks is None


def scored_attention(
    query: torch.Tensor, cache: LayerCache, batch: TreeBatch, rules: ScoreRules
) -> torch.Tensor:
    """Attention of tree nodes over their sequence's paged KV. The nodes' own KV must have been
    written to the cache before.

    Args:
        query: [rows, num_heads, head_dim], contiguous, rotary applied.

    Returns:
        [rows, num_heads, head_dim]
    """
    is_double = query.device.type == "cpu" and query.dtype is torch.bfloat16
    if rules.is_plain and not is_double:
        factor = rules.scale * query.shape[-1] ** 0.5
        # A product with 1 would round nothing, but is an operation more.
        scaled = query if abs(factor - 1) < 1e-6 else query * factor
        return attention_for(query).tree_attention(scaled, cache, batch, rules.window)
    out = torch.empty_like(query)
    for group in _groups(batch):
        padded = _group_attention(query[group.padded_rows], cache, group, rules, is_double)
        out[group.rows] = padded[group.real_rows]
    return out


def _groups(batch: TreeBatch) -> list[TreeGroup]:
    if "groups" not in batch.prepared:
        batch.prepared["groups"] = tree_groups(batch)
    return batch.prepared["groups"]


def _group_attention(
    query: torch.Tensor, cache: LayerCache, group: TreeGroup, rules: ScoreRules, is_double: bool
) -> torch.Tensor:
    """Attends in one group. query: [sequences x nodes, num_heads, head_dim] -> the same shape."""
    _, block_size, kv_heads, head_dim = cache.keys.shape
    shape = (group.num_sequences, group.num_blocks * block_size, kv_heads, head_dim)
    keys = cache.keys.index_select(0, group.blocks).view(shape).permute(0, 2, 3, 1)
    values = cache.values.index_select(0, group.blocks).view(shape).permute(0, 2, 1, 3)
    # [sequences, KV heads, query heads of one KV head, nodes, head_dim]
    split = query.view(group.num_sequences, group.num_nodes, kv_heads, -1, head_dim)
    folded = split.permute(0, 2, 3, 1, 4)
    if is_double:
        folded, keys, values = folded.double(), keys.double(), values.double()
    scores = folded @ keys.unsqueeze(2)
    scores = (scores if is_double else scores.float()) * rules.scale
    if rules.softcap is not None:
        scores = torch.tanh(scores / rules.softcap) * rules.softcap
    scores.masked_fill_(~_visible(group, rules)[:, None, None], float("-inf"))
    weights = _softmax(scores, rules.sinks).to(folded.dtype)
    out = (weights @ values.unsqueeze(2)).to(query.dtype)
    return out.permute(0, 3, 1, 2, 4).reshape(query.shape)


def _visible(group: TreeGroup, rules: ScoreRules) -> torch.Tensor:
    """[sequences, nodes, keys] bool"""
    visible = group.visible
    queries, keys = group.query_positions[:, :, None], group.key_positions[:, None, :]
    if rules.window is not None:
        visible = visible & (queries - keys < rules.window)
    if rules.chunk is not None:
        visible = visible & (queries // rules.chunk == keys // rules.chunk)
    return visible


def _softmax(scores: torch.Tensor, sinks: torch.Tensor | None) -> torch.Tensor:
    """Over the last dimension. scores: [sequences, KV heads, heads of each, nodes, keys]; sinks:
    [heads]"""
    if sinks is None:
        return scores.softmax(dim=-1)
    column = sinks.to(scores.dtype).view(1, *scores.shape[1:3], 1, 1).expand(*scores.shape[:-1], 1)
    return torch.cat((scores, column), dim=-1).softmax(dim=-1)[..., :-1]
