"""The definition of every kernel, in plain torch. Runs anywhere; other implementations are tested
against it."""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from server.kernels.tree import LayerCache, TreeBatch
from server.kernels.tree_groups import TreeGroup, tree_groups
from server.kernels.uniform import uniforms


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Root-mean-square norm over the last dimension. x: [..., dim], weight: [dim]."""
    return F.rms_norm(x, (x.shape[-1],), weight, eps)


def add_rms_norm(
    x: torch.Tensor, update: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """x + update, and its norm, as needed between two blocks of a layer. [rows, dim] each."""
    total = x + update
    return total, rms_norm(total, weight, eps)


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


def rotate_and_write(
    rotated: torch.Tensor,
    values: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    cache: LayerCache,
    slots: torch.Tensor,
) -> torch.Tensor:
    """Rotary embedding of queries and keys; keys and values go to their slots.

    Args:
        rotated: [rows, num_heads + num_kv_heads, head_dim], queries first.
        values: [rows, num_kv_heads, head_dim]
        cos, sin: [rows, 1, head_dim]
        slots: [rows] int64

    Returns:
        Queries [rows, num_heads, head_dim].
    """
    num_kv_heads = values.shape[1]
    turned = rotary(rotated, cos, sin)
    query, keys = turned.split((turned.shape[1] - num_kv_heads, num_kv_heads), dim=1)
    write_kv(keys, values, cache, slots)
    return query.contiguous()


def copy_kv(caches: Sequence[LayerCache], sources: torch.Tensor, targets: torch.Tensor) -> None:
    """Copies tokens' KV of all layers; one gather per layer. Reading before writing makes
    overlapping moves safe. sources, targets: [moves] int64 slots."""
    for layer in caches:
        for pool in layer:
            tokens = pool.view(-1, *pool.shape[2:])
            tokens.index_copy_(0, targets, tokens.index_select(0, sources))


def top_candidates(logits: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The most probable entries of each row, best first.

    Args:
        logits: [rows, vocab], vocab at least count.

    Returns:
        ([rows, count] int64 indices, [rows, count] float32 probabilities)
    """
    top = logits.topk(count, dim=-1)
    return top.indices, (top.values - logits.logsumexp(dim=-1, keepdim=True)).exp()


def argmax(logits: torch.Tensor) -> torch.Tensor:
    """The largest entry of each row, the first among equals. [rows, vocab] -> [rows] int64"""
    if logits.device.type == "cpu":
        # Takes a tenth of the time of torch's argmax, which is 2 % of a step of the default model.
        return torch.from_numpy(logits.numpy().argmax(axis=-1))
    return logits.argmax(dim=-1)


def draw(
    logits: torch.Tensor,
    temperatures: torch.Tensor,
    keep: torch.Tensor | None,
    seeds: torch.Tensor,
    positions: torch.Tensor,
) -> torch.Tensor:
    """Inverse CDF over softmax(logits / temperature), in order of token ids.

    Token order, not probability order: rounding that swaps two near-equal probabilities then
    moves no interval. Double precision: a float32 sum over a large vocabulary is off by 1e-4.

    Args:
        logits: [rows, vocab] float32.
        temperatures: [rows] float32, above 0.
        keep: [rows, vocab] bool: tokens that can be drawn; None for all.
        seeds, positions: [rows] int64: what each row's uniform depends on (`uniform.py`).

    Returns:
        [rows] int64
    """
    probs = (logits / temperatures[:, None]).softmax(dim=-1)
    if keep is not None:
        probs = probs.masked_fill(~keep, 0.0)
    cdf = probs.double().cumsum(dim=-1)
    uniform = uniforms(seeds.tolist(), positions.tolist(), logits.device)
    # right=True: the first token whose cumulative mass exceeds the target; a token of mass 0
    # never does. The clamp guards u x total rounding up to the total itself.
    total = cdf[:, -1]
    target = torch.minimum(uniform * total, total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(cdf, target[:, None], right=True)[:, 0]


def glimpse_attention(
    query: torch.Tensor,
    caches: Sequence[LayerCache],
    batch: TreeBatch,
    windows: Sequence[int | None],
) -> torch.Tensor:
    """`tree_attention` of each layer's queries over that layer's cache.

    Args:
        query: [rows, layers, num_heads, head_dim], rotary applied.
        caches, windows: one per layer.

    Returns:
        [rows, layers, num_heads, head_dim]
    """
    layers = zip(query.unbind(dim=1), caches, windows, strict=True)
    found = [
        tree_attention(part.contiguous(), cache, batch, window) for part, cache, window in layers
    ]
    return torch.stack(found, dim=1)


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
    """Attends in one group. query: [sequences x nodes, num_heads, head_dim] -> the same shape."""
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
