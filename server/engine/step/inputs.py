"""Turns trees of tokens into the tensors of `kernels/tree.py`."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from server.engine.schedule.plan import PlannedSequence
from server.engine.speculation.tree import TokenTree
from server.kernels.tree import TreeBatch


class Nodes(NamedTuple):
    """One sequence's nodes of a step; node i is written to the slot of position context_len + i."""

    block_ids: Sequence[int]
    """Block table covering context_len + the number of nodes."""
    context_len: int
    token_ids: Sequence[int]
    tree: TokenTree | None = None
    """None for a chain."""

    @property
    def positions(self) -> Sequence[int]:
        if self.tree is None:
            return range(self.context_len, self.context_len + len(self.token_ids))
        return [self.context_len + depth for depth in self.tree.depths]


class StepInputs(NamedTuple):
    """The tensors of a step that a model takes, and where each sequence's rows begin."""

    token_ids: torch.Tensor
    """[num_rows] int64"""
    batch: TreeBatch
    first_rows: list[int]
    """Row of each sequence's first node."""


def planned_nodes(planned: PlannedSequence, tree: TokenTree | None) -> Nodes:
    """A planned sequence's nodes: its chain of pending tokens, or the tree in its place."""
    start = planned.num_computed
    if tree is not None:
        shape = None if tree.is_chain else tree
        return Nodes(planned.block_ids, start, tree.token_ids, shape)
    tokens = planned.token_ids[start : start + planned.num_nodes]
    return Nodes(planned.block_ids, start, tokens)


def build_inputs(sequences: Sequence[Nodes], block_size: int, device: torch.device) -> StepInputs:
    """Rows of all sequences, one after another."""
    token_ids, positions, slots, first_rows = (list[int]() for _ in range(4))
    for nodes in sequences:
        first_rows.append(len(token_ids))
        token_ids.extend(nodes.token_ids)
        positions.extend(nodes.positions)
        end = nodes.context_len + len(nodes.token_ids)
        slots.extend(slots_of(nodes.block_ids, range(nodes.context_len, end), block_size))
    # One tensor, so that a device gets them in one copy.
    packed = torch.tensor([token_ids, positions, slots], device=device)
    batch = TreeBatch(
        positions=packed[1],
        slots=packed[2],
        block_tables=block_tables([nodes.block_ids for nodes in sequences], device),
        context_lens=tuple(nodes.context_len for nodes in sequences),
        node_counts=tuple(len(nodes.token_ids) for nodes in sequences),
        ancestors=_ancestors(sequences, len(token_ids), device),
        block_size=block_size,
    )
    return StepInputs(packed[0], batch, first_rows)


def rows_of(tensor: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
    """The listed rows; a copy only where they are not neighbours."""
    first, count = rows[0], len(rows)
    if list(rows) == list(range(first, first + count)):
        return tensor[first : first + count]
    return tensor[torch.tensor(rows, device=tensor.device)]


def block_tables(tables: Sequence[Sequence[int]], device: torch.device) -> torch.Tensor:
    """[sequences, longest table] int64, padded with block 0."""
    widest = max(map(len, tables))
    padded = [[*table, *(0,) * (widest - len(table))] for table in tables]
    return torch.tensor(padded, device=device)


def slots_of(block_ids: Sequence[int], positions: Sequence[int], block_size: int) -> list[int]:
    """Slots of positions in a sequence's blocks."""
    return [block_ids[p // block_size] * block_size + p % block_size for p in positions]


def _ancestors(
    sequences: Sequence[Nodes], num_rows: int, device: torch.device
) -> torch.Tensor | None:
    """[num_rows, most nodes] bool, None if all are chains."""
    if all(nodes.tree is None for nodes in sequences):
        return None
    width = max(len(nodes.token_ids) for nodes in sequences)
    mask = torch.ones(width, width, dtype=torch.bool).tril()
    rows = list[torch.Tensor]()
    for nodes in sequences:
        rows.append(
            mask[: len(nodes.token_ids)] if nodes.tree is None else _mask(nodes.tree, width)
        )
    return torch.cat(rows).to(device)


def _mask(tree: TokenTree, width: int) -> torch.Tensor:
    """[nodes, width] bool: which nodes of its tree each node sees."""
    mask = torch.zeros(len(tree), width, dtype=torch.bool)
    for node in range(len(tree)):
        mask[node, tree.path(node)] = True
    return mask
