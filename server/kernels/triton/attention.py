"""Attention of tree nodes over the paged KV cache, split over the context.

    grid:  (tiles, layers x KV heads, prefix splits + 1)

    one sequence's keys      | committed tokens                       | nodes of this step |
    programs (third axis)    | split 0 | split 1 | split 2 |  …       | the last one       |
                             | equally many tokens each; no mask      | ancestor mask      |

    one program              queries [BLOCK_M, head_dim]: a tile's nodes x the query heads of
                             one KV head, so that KV is read once for all of them
                             loop: keys [head_dim, BLOCK_N] -> scores -> online softmax

A tile is up to BLOCK_M / heads-per-KV-head neighbouring nodes of one sequence. A program leaves its
softmax's log-sum-exp and its normalised result; `_merge` weighs them in a fixed order (the split of
flash-decoding; prefix and tree apart as in LongSpec, arXiv 2502.17421, section 4). A tile's height
and a sequence's splits depend on nothing but the model and its own context: what else is in the
batch changes no row. Partial results take ATTENTION_WORKSPACE at most; larger steps are several
launches.

Several target layers are one launch (GliDe's glimpse): a layer is an offset into the KV pool.
"""

# Triton's language is no Python: its functions' parameters are pointers and numbers of the launch.
# pyright: reportMissingParameterType=false, reportCallIssue=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from server.kernels.tree import LayerCache, TreeBatch
from server.kernels.triton import ATTENTION_WORKSPACE, granule_of

_SPLIT = 256
"""Committed tokens of a program in contexts up to _MOST_SPLITS x _SPLIT; in longer ones, a multiple
of it. One sequence of 8k tokens and 8 KV heads makes 256 programs."""
_MOST_SPLITS = 64
NUM_WARPS = 4
_ROWS = 64
"""Rows of a program's queries, as a product on a Hopper GPU takes; fewer only for fewer nodes."""


class Tiles(NamedTuple):
    """A step cut into tiles, as tensors [tiles] int32 on the device."""

    sequences: torch.Tensor
    rows: torch.Tensor
    """First row of the step."""
    counts: torch.Tensor
    """Nodes in the tile, at least 1."""
    first_rows: torch.Tensor
    """[sequences] row of each sequence's first node."""
    context_lens: torch.Tensor
    """[sequences]"""
    node_counts: torch.Tensor
    """[sequences]"""
    longest_context: int
    """Limit of all contexts, which sets the size of the launch."""
    bounds: tuple[int, ...]
    """First row of each tile, and the number of rows."""


def tiles_of(batch: TreeBatch, nodes_per_tile: int) -> Tiles:
    """The tiles of a step, made once and kept with the batch."""
    key = ("tiles", nodes_per_tile)
    if key not in batch.prepared:
        batch.prepared[key] = _tiles(batch, nodes_per_tile)
    return batch.prepared[key]


def _tiles(batch: TreeBatch, nodes_per_tile: int) -> Tiles:
    device, longest = batch.positions.device, max(batch.context_lens)
    if batch.exact_lens is None:
        contexts = torch.tensor(batch.context_lens, dtype=torch.int32, device=device)
        return _cut(batch.node_counts, nodes_per_tile, contexts, longest)
    like = _equal_trees(len(batch.node_counts), batch.node_counts[0], nodes_per_tile, device)
    return like._replace(context_lens=batch.exact_lens.int(), longest_context=longest)


@cache
def _equal_trees(
    num_sequences: int, num_nodes: int, nodes_per_tile: int, device: torch.device
) -> Tiles:
    """Tiles of equal trees. They are kept for good: nothing may be copied to the GPU while a graph
    is captured, and graphs hold the address."""
    nobody = torch.zeros(num_sequences, dtype=torch.int32, device=device)
    return _cut((num_nodes,) * num_sequences, nodes_per_tile, nobody, 0)


def _cut(
    node_counts: Sequence[int], nodes_per_tile: int, contexts: torch.Tensor, longest: int
) -> Tiles:
    sequences, rows, counts, first_rows = (list[int]() for _ in range(4))
    row = 0
    for sequence, nodes in enumerate(node_counts):
        first_rows.append(row)
        for start in range(0, nodes, nodes_per_tile):
            sequences.append(sequence)
            rows.append(row + start)
            counts.append(min(nodes_per_tile, nodes - start))
        row += nodes
    made = (
        torch.tensor(values, dtype=torch.int32, device=contexts.device)
        for values in (sequences, rows, counts, first_rows, node_counts)
    )
    tile_sequences, tile_rows, tile_counts, starts, nodes = made
    bounds = (*rows, row)
    return Tiles(tile_sequences, tile_rows, tile_counts, starts, contexts, nodes, longest, bounds)


def tree_attention(
    query: torch.Tensor, cache: LayerCache, batch: TreeBatch, window: int | None
) -> torch.Tensor:
    """Like the reference's, but zeros for a row that sees nothing."""
    return glimpse_attention(query[:, None], [cache], batch, [window])[:, 0]


def glimpse_attention(
    query: torch.Tensor,
    caches: Sequence[LayerCache],
    batch: TreeBatch,
    windows: Sequence[int | None],
) -> torch.Tensor:
    """Like the reference's. query: [rows, layers, num_heads, head_dim] -> the same shape."""
    query = query.contiguous()
    _, num_layers, num_heads, head_dim = query.shape
    first = caches[0]
    kv_heads = first.keys.shape[2]
    group = num_heads // kv_heads
    block_m = max(_ROWS, 1 << (group - 1).bit_length())
    tiles = tiles_of(batch, block_m // group)
    num_splits = min(-(-tiles.longest_context // _SPLIT), _MOST_SPLITS) + 1
    parts = (num_layers * num_heads, num_splits)
    launches = _launches(tiles.bounds, parts[0] * num_splits * (head_dim + 1) * 4)
    most_rows = max(tiles.bounds[end] - tiles.bounds[start] for start, end in launches)
    results = torch.empty((most_rows, *parts, head_dim), dtype=torch.float32, device=query.device)
    logsumexps = torch.empty((most_rows, *parts), dtype=torch.float32, device=query.device)
    layers, granule = _layers(caches, windows)
    block_n, num_stages = loop_of(head_dim, query.dtype)
    out = torch.empty_like(query)
    for start, end in launches:
        first_row = tiles.bounds[start]
        _attend[(end - start, num_layers * kv_heads, num_splits)](
            query, first.keys, results, logsumexps, layers, start, first_row,
            tiles.sequences, tiles.rows, tiles.counts,
            tiles.first_rows, tiles.context_lens, tiles.node_counts, batch.positions, batch.slots,
            batch.block_tables, batch.block_tables.stride(0),
            batch.positions if batch.ancestors is None else batch.ancestors,
            0 if batch.ancestors is None else batch.ancestors.stride(0),
            head_dim**-0.5,
            LAYERS=num_layers, KV_HEADS=kv_heads, GROUP=group, HEAD_DIM=head_dim,
            PAGE=batch.block_size, HAS_MASK=batch.ancestors is not None, SPLIT=_SPLIT,
            MOST_SPLITS=_MOST_SPLITS, GRANULE=granule, BLOCK_M=block_m,
            BLOCK_N=block_n, BLOCK_D=max(16, triton.next_power_of_2(head_dim)),
            num_warps=NUM_WARPS, num_stages=num_stages,
        )  # fmt: skip
        _merge[(tiles.bounds[end] - first_row, parts[0])](
            results, logsumexps, out, first_row, num_splits, parts[0],
            HEAD_DIM=head_dim, BLOCK_D=triton.next_power_of_2(head_dim), num_warps=1,
        )  # fmt: skip
    return out


def loop_of(head_dim: int, dtype: torch.dtype) -> tuple[int, int]:
    """Keys of a turn of the loop, and turns that are loaded at once. With the queries they fit into
    99 KiB, the shared memory of a block on the smaller GPUs (compute capability 8.6 and 8.9)."""
    if dtype == torch.float32:
        return (16, 1) if head_dim > 128 else (32, 2) if head_dim > 64 else (64, 2)
    return (32, 2) if head_dim > 128 else (64, 2)


def _launches(bounds: Sequence[int], row_bytes: int) -> list[tuple[int, int]]:
    """Tile ranges [first, end) of launches that keep within the workspace; each has a tile at
    least.

    Args:
        row_bytes: bytes of a row's partial results.
    """
    most_rows, launches, start = ATTENTION_WORKSPACE // row_bytes, list[tuple[int, int]](), 0
    for tile in range(1, len(bounds)):
        if tile + 1 == len(bounds) or bounds[tile + 1] - bounds[start] > most_rows:
            launches.append((start, tile))
            start = tile
    return launches


def _layers(
    caches: Sequence[LayerCache], windows: Sequence[int | None]
) -> tuple[torch.Tensor, int]:
    """[layers, 3] int64: keys' and values' offsets from the first keys, in elements; the window,
    0 for none. And what all offsets are multiples of (`granule_of`)."""
    first = caches[0].keys
    pointers = tuple((c.keys.data_ptr(), c.values.data_ptr()) for c in caches)
    return _table(pointers, tuple(window or 0 for window in windows), first.itemsize, first.device)


@cache
def _table(
    pointers: tuple[tuple[int, int], ...],
    windows: tuple[int, ...],
    itemsize: int,
    device: torch.device,
) -> tuple[torch.Tensor, int]:
    """`_layers` on the GPU. It is kept for good: it is copied once and not in every step, and
    graphs hold the address."""
    base = pointers[0][0]
    rows = [
        [(keys - base) // itemsize, (values - base) // itemsize, window]
        for (keys, values), window in zip(pointers, windows, strict=True)
    ]
    offsets = [offset for keys, values, _ in rows for offset in (keys, values)]
    return torch.tensor(rows, device=device), granule_of(offsets)


@triton.jit
def _attend(
    query, keys, results, logsumexps, layers, first_tile, base_row,
    tile_sequences, tile_rows, tile_counts, first_rows, context_lens, node_counts, positions, slots,
    tables, table_stride, ancestors, ancestor_stride, scale,
    LAYERS: tl.constexpr, KV_HEADS: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr,
    PAGE: tl.constexpr, HAS_MASK: tl.constexpr, SPLIT: tl.constexpr, MOST_SPLITS: tl.constexpr,
    GRANULE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    tile, layer, kv_head = (
        first_tile + tl.program_id(0),
        tl.program_id(1) // KV_HEADS,
        tl.program_id(1) % KV_HEADS,
    )
    split, num_splits = tl.program_id(2), tl.num_programs(2)
    sequence = tl.load(tile_sequences + tile)
    first_row, context = tl.load(first_rows + sequence), tl.load(context_lens + sequence)
    nodes = tl.load(node_counts + sequence)
    # Of an offset from memory the compiler knows nothing, and would load each element by itself.
    pool_keys = keys + tl.multiple_of(tl.load(layers + layer * 3), GRANULE)
    pool_values = keys + tl.multiple_of(tl.load(layers + layer * 3 + 1), GRANULE)
    window = tl.load(layers + layer * 3 + 2)

    m, d = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    row = tl.load(tile_rows + tile) + m // GROUP
    count = tl.load(tile_counts + tile)
    is_row = m < count * GROUP
    head = (layer * KV_HEADS + kv_head) * GROUP + m % GROUP
    at = row.to(tl.int64) * (LAYERS * KV_HEADS * GROUP) + head
    q = tl.load(
        query + at[:, None] * HEAD_DIM + d, mask=is_row[:, None] & (d < HEAD_DIM), other=0.0
    )
    position = tl.load(positions + row, mask=is_row, other=0)

    # The last split's keys are the nodes of this step, the others' committed tokens.
    is_tree = split == num_splits - 1
    length = SPLIT * tl.maximum(tl.cdiv(context, SPLIT * MOST_SPLITS), 1)
    # No node sees a later one. Keys that no row of the tile sees would change no bit of the result.
    last_node = tl.load(tile_rows + tile) + count - first_row
    tree_end = tl.where(is_tree, tl.minimum(nodes, last_node), 0)
    prefix_end = tl.where(is_tree, 0, tl.minimum(split * length + length, context))
    begin, end = tl.where(is_tree, 0, split * length), tree_end + prefix_end
    # Prompts' chunks and chains lie in order, trees may not.
    origin = tl.where(is_tree, tl.load(positions + first_row), 0)
    earliest = tl.min(tl.where(is_row, position, 2**31), 0) - window + 1 - origin
    is_cut = (window > 0) & ((not HAS_MASK) | (not is_tree))
    earliest = tl.where(is_cut, tl.maximum(earliest, 0), 0).to(tl.int32)
    begin = tl.maximum(begin, earliest // BLOCK_N * BLOCK_N)
    most = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    sums = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for start in range(begin, end, BLOCK_N):
        k = start + tl.arange(0, BLOCK_N)
        inside, in_tree, in_prefix = k < end, k < tree_end, k < prefix_end
        page = tl.load(tables + sequence * table_stride + k // PAGE, mask=in_prefix, other=0)
        own_slot = tl.load(slots + first_row + k, mask=in_tree, other=0)
        slot = tl.where(in_tree, own_slot, page * PAGE + k % PAGE)
        own_position = tl.load(positions + first_row + k, mask=in_tree, other=0)
        key_position = tl.where(in_tree, own_position, k)
        seen = inside[None, :] & is_row[:, None]
        if HAS_MASK:
            cell = ancestors + row.to(tl.int64)[:, None] * ancestor_stride + k[None, :]
            is_ancestor = tl.load(cell, mask=seen & in_tree[None, :], other=0) != 0
            seen &= in_prefix[None, :] | is_ancestor
        else:
            seen &= in_prefix[None, :] | (k[None, :] <= (row - first_row)[:, None])
        seen &= (window == 0) | (position[:, None] - key_position[None, :] < window)

        place = (slot.to(tl.int64) * KV_HEADS + kv_head) * HEAD_DIM
        is_key = inside[None, :] & (d < HEAD_DIM)[:, None]
        key = tl.load(pool_keys + place[None, :] + d[:, None], mask=is_key, other=0.0)
        scores = tl.dot(q, key, input_precision="ieee") * scale
        scores = tl.where(seen, scores, float("-inf"))
        higher = tl.maximum(most, tl.max(scores, 1))
        # Avoids NaN from -inf - -inf where nothing was seen yet.
        base = tl.where(higher == float("-inf"), 0.0, higher)
        weights, keep = tl.exp(scores - base[:, None]), tl.exp(most - base)
        total = total * keep + tl.sum(weights, 1)
        is_value = inside[:, None] & (d < HEAD_DIM)[None, :]
        value = tl.load(pool_values + place[:, None] + d[None, :], mask=is_value, other=0.0)
        sums = sums * keep[:, None] + tl.dot(weights.to(value.dtype), value, input_precision="ieee")
        most = higher

    part = (at - base_row * (LAYERS * KV_HEADS * GROUP)) * num_splits + split
    mass = tl.where(total == 0.0, 1.0, total)
    result = sums / mass[:, None]
    logsumexp = tl.where(total == 0.0, float("-inf"), most + tl.log(mass))
    tl.store(results + part[:, None] * HEAD_DIM + d, result, mask=is_row[:, None] & (d < HEAD_DIM))
    tl.store(logsumexps + part, logsumexp, mask=is_row)


@triton.jit
def _merge(
    results, logsumexps, out, base_row, num_splits, num_heads,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Program (row, head): weighs the splits by their softmax's mass, in order."""
    at = tl.program_id(0).to(tl.int64) * num_heads + tl.program_id(1)
    d = tl.arange(0, BLOCK_D)
    most = tl.full([], float("-inf"), tl.float32)
    total = tl.zeros([], tl.float32)
    sums = tl.zeros([BLOCK_D], tl.float32)
    for split in range(num_splits):
        part = at * num_splits + split
        mass = tl.load(logsumexps + part)
        higher = tl.maximum(most, mass)
        base = tl.where(higher == float("-inf"), 0.0, higher)
        keep, weight = tl.exp(most - base), tl.exp(mass - base)
        width = tl.where(mass == float("-inf"), 0, HEAD_DIM)
        sums = sums * keep + weight * tl.load(
            results + part * HEAD_DIM + d, mask=d < width, other=0.0
        )
        total = total * keep + weight
        most = higher
    result = sums / tl.where(total == 0.0, 1.0, total)
    to = out + (at + base_row * num_heads) * HEAD_DIM + d
    tl.store(to, result.to(out.dtype.element_ty), mask=d < HEAD_DIM)
