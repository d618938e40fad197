"""Tree attention for layers that score otherwise than `tree_attention` does: a scale of their own,
soft-capped scores, attention sinks, chunks instead of windows.

On a CPU the native kernels compute all of it (`cpu/attention.py`). Elsewhere, and where there are
none, layers that differ in nothing but their scale use `tree_attention`; the others are computed
here, in plain torch.
"""

import torch
from torch.nn import functional as F

from server.kernels.dispatch import attention_for, native_attention
from server.kernels.reference import write_kv
from server.kernels.tree import LayerCache, TreeBatch
from server.kernels.tree_groups import TreeGroup, tree_groups
from server.kernels.types import ScoredAttention, ScoreRules

_NUMBERS_AT_ONCE = 2**17
"""Of keys, and as many of values. Where one sequence has more, it is alone."""
_SCORES_AT_ONCE = 2**22
"""Nodes x heads x keys; in float32 16 MiB, some of which live at a time. Where one node has more,
it is alone."""


def scored_attention_for(device: torch.device, dtype: torch.dtype) -> ScoredAttention:
    """The attention over a cache in this precision on this device."""
    return native_attention(device, dtype) or write_and_attend


def write_and_attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    cache: LayerCache,
    batch: TreeBatch,
    rules: ScoreRules,
) -> torch.Tensor:
    """A `ScoredAttention`."""
    dtype, value_dim = cache.keys.dtype, values.shape[3]
    query, keys, values = (x[0].transpose(0, 1) for x in (query, keys, values))
    if value_dim < keys.shape[2]:
        values = F.pad(values, (0, keys.shape[2] - value_dim))
    write_kv(keys.to(dtype), values.to(dtype), cache, batch.slots)
    attended = scored_attention(query.to(dtype).contiguous(), cache, batch, rules)
    return attended[..., :value_dim].unsqueeze(0)


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
    if rules.is_plain:
        factor = rules.scale * query.shape[-1] ** 0.5
        # A product with 1 would round nothing, but is an operation more.
        scaled = query if abs(factor - 1) < 1e-6 else query * factor
        return attention_for(query).tree_attention(scaled, cache, batch, rules.window)
    out = torch.empty_like(query)
    for group in _groups(batch):
        padded = _group_attention(query[group.padded_rows], cache, group, rules)
        out[group.rows] = padded[group.real_rows]
    return out


def _groups(batch: TreeBatch) -> list[TreeGroup]:
    if "groups" not in batch.prepared:
        batch.prepared["groups"] = tree_groups(batch)
    return batch.prepared["groups"]


def _group_attention(
    query: torch.Tensor, cache: LayerCache, group: TreeGroup, rules: ScoreRules
) -> torch.Tensor:
    """Attends in one group, some sequences and of those some nodes at a time: keys and values then
    stay in the CPU's caches between copy and product, and scores of a
    long prompt's chunk take no more memory than others.

    query: [sequences x nodes, num_heads, head_dim] -> the same shape
    """
    _, block_size, kv_heads, head_dim = cache.keys.shape
    num_keys = group.num_blocks * block_size
    by_sequence = query.view(group.num_sequences, group.num_nodes, kv_heads, -1, head_dim)
    blocks = group.blocks.view(group.num_sequences, group.num_blocks)
    out = torch.empty_like(by_sequence)
    at_once = max(1, _NUMBERS_AT_ONCE // (num_keys * kv_heads * head_dim))
    nodes_at_once = max(1, _SCORES_AT_ONCE // (at_once * query.shape[1] * num_keys))
    for first in range(0, group.num_sequences, at_once):
        sequences = slice(first, first + at_once)
        for node in range(0, group.num_nodes, nodes_at_once):
            part = sequences, slice(node, node + nodes_at_once)
            hidden = ~_visible(group, rules, *part)
            reach = _reached(hidden, block_size)
            ids = blocks[sequences, reach]
            hidden = hidden[..., reach.start * block_size : reach.stop * block_size]
            shape = (len(ids), -1, kv_heads, head_dim)
            keys, values = (
                pool.index_select(0, ids.flatten()).view(shape).transpose(1, 2) for pool in cache
            )
            out[part] = _attend(by_sequence[part], keys, values, hidden, rules)
    return out.view(query.shape)


def _reached(hidden: torch.Tensor, block_size: int) -> slice:
    """The blocks from the first to the last of which some node sees a key; on a GPU all of them,
    where asking would make the host wait.

    hidden: [sequences, nodes, keys] bool
    """
    num_blocks = hidden.shape[-1] // block_size
    if hidden.device.type != "cpu":
        return slice(0, num_blocks)
    seen = (~hidden.all(dim=0).all(dim=0)).view(num_blocks, block_size).any(dim=1).nonzero()
    return slice(int(seen[0]), int(seen[-1]) + 1)


def _attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    hidden: torch.Tensor,
    rules: ScoreRules,
) -> torch.Tensor:
    """Attention of equally many rows of some sequences.

    Args:
        query: [sequences, nodes, kv_heads, query heads of each, head_dim]
        keys, values: [sequences, kv_heads, keys, head_dim]
        hidden: [sequences, nodes, keys] bool: what a node does not see.

    Returns:
        The query's shape.
    """
    by_kv_head = query.transpose(1, 2)
    # The query heads that share a KV head become extra rows of it: no KV is repeated.
    scores = by_kv_head.flatten(2, 3) @ keys.mT
    scores = scores.float().mul_(rules.scale)
    if rules.softcap is not None:
        scores = torch.tanh(scores / rules.softcap) * rules.softcap
    scores = scores.unflatten(2, by_kv_head.shape[2:4])
    scores.masked_fill_(hidden[:, None, :, None], float("-inf"))
    weights = _softmax(scores, rules.sinks).to(values.dtype)
    return (weights.flatten(2, 3) @ values).view(by_kv_head.shape).transpose(1, 2)


def _visible(group: TreeGroup, rules: ScoreRules, sequences: slice, nodes: slice) -> torch.Tensor:
    """[sequences, nodes, keys] bool, of some of the group's"""
    visible = group.visible[sequences, nodes]
    queries = group.query_positions[sequences, nodes, None]
    keys = group.key_positions[sequences, None, :]
    if rules.window is not None:
        visible = visible & (queries - keys < rules.window)
    if rules.chunk is not None:
        visible = visible & (queries // rules.chunk == keys // rules.chunk)
    return visible


def _softmax(scores: torch.Tensor, sinks: torch.Tensor | None) -> torch.Tensor:
    """Over the last dimension. scores: [sequences, KV heads, nodes, heads of each, keys]; sinks:
    [heads]"""
    if sinks is None:
        return scores.softmax(dim=-1)
    kv_heads, heads_of_each = scores.shape[1], scores.shape[3]
    column = sinks.to(scores.dtype).view(1, kv_heads, 1, heads_of_each, 1)
    column = column.expand(*scores.shape[:-1], 1)
    return torch.cat((scores, column), dim=-1).softmax(dim=-1)[..., :-1]
