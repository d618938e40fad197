"""The definition of every kernel, in plain torch. Runs anywhere; other implementations are tested
against it."""

import torch
from torch.nn import functional as F

from server.kernels.tree import LayerCache, TreeBatch
from server.kernels.tree_groups import TreeGroup, tree_groups


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Root-mean-square norm over the last dimension. x: [..., dim], weight: [dim]."""
    return F.rms_norm(x, (x.shape[-1],), weight, eps)


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """SwiGLU's product. gate_up: [rows, 2 x dim], gate first -> [rows, dim]."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def rotary(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotates the halves of each head (the layout of Hugging Face checkpoints).

    x: [rows, heads, head_dim]; cos, sin: [rows, 1, head_dim] (each half repeated).
    """
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def write_kv(
    keys: torch.Tensor, values: torch.Tensor, cache: LayerCache, slots: torch.Tensor
) -> None:
    """Stores keys and values [rows, num_kv_heads, head_dim] at slots [rows]."""
    cache.keys.view(-1, *keys.shape[1:]).index_copy_(0, slots, keys)
    cache.values.view(-1, *values.shape[1:]).index_copy_(0, slots, values)


def tree_attention(
    query: torch.Tensor, cache: LayerCache, batch: TreeBatch, window: int | None
) -> torch.Tensor:
    """Attention of tree nodes over their sequence's paged KV, scaled by 1/sqrt(head_dim).

    The nodes' own KV must have been written to the cache before.

    Args:
        query: [rows, num_heads, head_dim], rotary applied; num_heads a multiple of the cache's
            num_kv_heads.
        window: sliding window in tokens, or None.

    Returns:
        [rows, num_heads, head_dim]
    """
    groups: list[TreeGroup] | None = batch.prepared.get("groups")
    if groups is None:
        groups = batch.prepared["groups"] = tree_groups(batch)
    if len(groups) == 1 and groups[0].covers_all_rows:
        return _group_attention(query, cache, groups[0], window)
    out = torch.empty_like(query)
    for group in groups:
        padded = _group_attention(query[group.padded_rows], cache, group, window)
        out[group.rows] = padded[group.real_rows]
    return out


def _group_attention(
    query: torch.Tensor, cache: LayerCache, group: TreeGroup, window: int | None
) -> torch.Tensor:
    """query: [sequences x nodes, num_heads, head_dim] -> the same shape."""
    _, block_size, kv_heads, head_dim = cache.keys.shape
    queries_per_kv = query.shape[1] // kv_heads
    shape = (group.num_sequences, group.num_blocks * block_size, kv_heads, head_dim)
    keys = cache.keys.index_select(0, group.blocks).view(shape).transpose(1, 2)
    values = cache.values.index_select(0, group.blocks).view(shape).transpose(1, 2)
    # The query heads that share a KV head become extra query rows of it: no KV is repeated.
    folded = (
        query.view(group.num_sequences, group.num_nodes, kv_heads, queries_per_kv, head_dim)
        .permute(0, 2, 1, 3, 4)
        .reshape(group.num_sequences, kv_heads, group.num_nodes * queries_per_kv, head_dim)
    )
    mask = group.mask(window, queries_per_kv, query.dtype)
    out = F.scaled_dot_product_attention(folded, keys, values, attn_mask=mask)
    return (
        out.view(group.num_sequences, kv_heads, group.num_nodes, queries_per_kv, head_dim)
        .permute(0, 2, 1, 3, 4)
        .reshape(query.shape)
    )
