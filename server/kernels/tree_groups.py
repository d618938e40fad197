"""Sorts the sequences of a step into groups of like size, so that the reference attention can
treat each group as one padded batch without padding a decode step to a prefill's length."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from server.kernels.tree import TreeBatch

_MAX_PADDED_NODES = 32
"""Larger trees (prefill chunks) form groups by themselves: padding them would take much time."""


@dataclass(slots=True, eq=False)
class TreeGroup:
    """Sequences padded to the same number of nodes and blocks. G sequences, Q nodes each,
    K = num_blocks x block_size key positions."""

    num_sequences: int
    num_nodes: int
    num_blocks: int
    blocks: torch.Tensor
    """[G x num_blocks] block ids."""
    padded_rows: torch.Tensor
    """[G x Q] row of the step behind each padded query; padding repeats the last node."""
    rows: torch.Tensor
    """The rows of the step that belong to this group, without padding."""
    real_rows: torch.Tensor
    """Index of each of `rows` among the padded ones."""
    covers_all_rows: bool
    """Whether this group is the whole step and has no padding, so that no rows need to be moved."""
    query_positions: torch.Tensor
    """[G, Q]"""
    key_positions: torch.Tensor
    """[G, K] position of the token in each key slot (siblings share one)."""
    visible: torch.Tensor
    """[G, Q, K] bool, the sliding window left out."""
    masks: dict[tuple[int | None, int, torch.dtype], torch.Tensor] = field(
        default_factory=dict[tuple[int | None, int, torch.dtype], torch.Tensor]
    )

    def mask(self, window: int | None, queries_per_kv: int, dtype: torch.dtype) -> torch.Tensor:
        """Additive mask [G, 1, Q x queries_per_kv, K]; made once, shared by the layers."""
        key = (window, queries_per_kv, dtype)
        if key not in self.masks:
            visible = self.visible
            if window is not None:
                distance = self.query_positions[:, :, None] - self.key_positions[:, None, :]
                visible = visible & (distance < window)
            additive = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
            additive.masked_fill_(~visible, float("-inf"))
            self.masks[key] = additive.repeat_interleave(queries_per_kv, dim=1).unsqueeze(1)
        return self.masks[key]


def tree_groups(batch: TreeBatch) -> list[TreeGroup]:
    """Splits a step's sequences by number of nodes and by length of context."""
    if batch.exact_lens is not None:
        return [_group_of_all(batch, batch.exact_lens)]
    members: dict[tuple[int, int], list[int]] = {}
    for index, (context, nodes) in enumerate(
        zip(batch.context_lens, batch.node_counts, strict=True)
    ):
        blocks = -(-(context + nodes) // batch.block_size)
        node_class = -index - 1 if nodes > _MAX_PADDED_NODES else _power_of_two(nodes)
        members.setdefault((node_class, _power_of_two(blocks)), []).append(index)
    return [_group(batch, indices) for indices in members.values()]


def _power_of_two(n: int) -> int:
    """The smallest power of two that is at least n."""
    return 1 << (n - 1).bit_length()


def _group(batch: TreeBatch, indices: Sequence[int]) -> TreeGroup:
    if all(batch.node_counts[i] == 1 for i in indices):
        return _single_node_group(batch, indices)
    device = batch.positions.device
    nodes = torch.tensor([batch.node_counts[i] for i in indices], device=device)
    contexts = torch.tensor([batch.context_lens[i] for i in indices], device=device)
    starts = _row_starts(batch.node_counts)
    first_rows = torch.tensor([starts[i] for i in indices], device=device)
    num_nodes = max(batch.node_counts[i] for i in indices)
    length = max(batch.context_lens[i] + batch.node_counts[i] for i in indices)
    num_blocks = -(-length // batch.block_size)

    step = torch.arange(num_nodes, device=device)
    padded_rows = first_rows[:, None] + torch.minimum(step, nodes[:, None] - 1)
    real = (step < nodes[:, None]).flatten().nonzero().flatten()
    rows = padded_rows.flatten()[real]
    num_rows = batch.positions.shape[0]
    query_positions = batch.positions[padded_rows]
    key_positions, visible = _keys(
        batch, contexts, nodes, padded_rows, num_blocks * batch.block_size
    )
    return TreeGroup(
        num_sequences=len(indices),
        num_nodes=num_nodes,
        num_blocks=num_blocks,
        blocks=batch.block_tables[list(indices), :num_blocks].flatten(),
        padded_rows=padded_rows.flatten(),
        rows=rows,
        real_rows=real,
        covers_all_rows=len(rows) == num_rows == padded_rows.numel(),
        query_positions=query_positions,
        key_positions=key_positions,
        visible=visible,
    )


def _group_of_all(batch: TreeBatch, contexts: torch.Tensor) -> TreeGroup:
    """One group of all sequences. Their trees are equal and need no padding, and the host doesn't
    know their contexts."""
    num_sequences, num_nodes = len(batch.node_counts), batch.node_counts[0]
    needed = -(-(max(batch.context_lens) + num_nodes) // batch.block_size)
    num_blocks = min(needed, batch.block_tables.shape[1])
    rows = torch.arange(num_sequences * num_nodes, device=contexts.device)
    padded_rows = rows.view(num_sequences, num_nodes)
    key_positions, visible = _keys(
        batch,
        contexts,
        torch.full_like(contexts, num_nodes),
        padded_rows,
        num_blocks * batch.block_size,
    )
    return TreeGroup(
        num_sequences=num_sequences,
        num_nodes=num_nodes,
        num_blocks=num_blocks,
        blocks=batch.block_tables[:, :num_blocks].flatten(),
        padded_rows=rows,
        rows=rows,
        real_rows=rows,
        covers_all_rows=True,
        query_positions=batch.positions[padded_rows],
        key_positions=key_positions,
        visible=visible,
    )


def _single_node_group(batch: TreeBatch, indices: Sequence[int]) -> TreeGroup:
    """Like `_group`, for plain decoding and drafting, with a fifth of the small tensor
    operations."""
    device = batch.positions.device
    num_blocks = -(-(max(batch.context_lens[i] for i in indices) + 1) // batch.block_size)
    whole = len(indices) == len(batch.node_counts) == batch.positions.shape[0]
    starts = range(len(indices)) if whole else _row_starts(batch.node_counts)
    rows = torch.tensor([starts[i] for i in indices], device=device)
    context = torch.tensor([batch.context_lens[i] for i in indices], device=device)[:, None]
    slot = torch.arange(num_blocks * batch.block_size, device=device)
    positions = batch.positions if whole else batch.positions[rows]
    tables = batch.block_tables if whole else batch.block_tables[list(indices)]
    visible = slot <= context
    if batch.ancestors is not None:
        visible = (slot < context) | ((slot == context) & batch.ancestors[rows, :1])
    return TreeGroup(
        num_sequences=len(indices),
        num_nodes=1,
        num_blocks=num_blocks,
        blocks=tables[:, :num_blocks].flatten(),
        padded_rows=rows,
        rows=rows,
        real_rows=torch.arange(len(indices), device=device),
        covers_all_rows=whole,
        query_positions=positions[:, None],
        key_positions=torch.where(slot == context, positions[:, None], slot),
        visible=visible[:, None, :],
    )


def _row_starts(node_counts: Sequence[int]) -> list[int]:
    starts, total = list[int](), 0
    for count in node_counts:
        starts.append(total)
        total += count
    return starts


def _keys(
    batch: TreeBatch,
    contexts: torch.Tensor,
    nodes: torch.Tensor,
    padded_rows: torch.Tensor,
    num_keys: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions [G, K] and visibility [G, Q, K] of the key slots of a group.

    Key slot k of a sequence with context c:  [0, c) committed token k;
    [c, c + nodes) node k - c of this step;  [c + nodes, K) stale, seen by nobody.
    """
    slot = torch.arange(num_keys, device=contexts.device)
    node = slot - contexts[:, None]
    committed = node < 0
    in_step = (node >= 0) & (node < nodes[:, None])
    clamped = torch.minimum(node.clamp(min=0), nodes[:, None] - 1)
    step_positions = batch.positions[padded_rows[:, :1] + clamped]
    key_positions = torch.where(committed, slot, step_positions)
    if batch.ancestors is None:
        query_node = torch.arange(padded_rows.shape[1], device=contexts.device)
        sees = node[:, None, :] <= query_node[None, :, None]
    else:
        wanted = clamped[:, None, :].expand(-1, padded_rows.shape[1], -1)
        sees = batch.ancestors[padded_rows].gather(2, wanted)
    return key_positions, committed[:, None, :] | (in_step[:, None, :] & sees)
