"""Turns a step's plan into the tensors of `kernels/tree.py`."""

from typing import NamedTuple

import torch

from server.engine.plan import StepPlan
from server.kernels.tree import TreeBatch


class StepInputs(NamedTuple):
    """A step as the model takes it."""

    token_ids: torch.Tensor
    """[num_rows] int64"""
    batch: TreeBatch
    logit_rows: torch.Tensor
    """[num_wanting] int64: the rows whose logits decide a next token, in plan order."""


def build_inputs(plan: StepPlan, block_size: int, device: torch.device) -> StepInputs:
    """Rows of all planned sequences, one after another."""
    token_ids, positions, slots, logit_rows = (list[int]() for _ in range(4))
    for planned in plan.sequences:
        start, end = planned.num_computed, planned.num_computed + planned.num_nodes
        token_ids.extend(planned.token_ids[start:end])
        positions.extend(range(start, end))
        slots.extend(
            planned.block_ids[at // block_size] * block_size + at % block_size
            for at in range(start, end)
        )
        if planned.wants_token:
            logit_rows.append(len(token_ids) - 1)
    widest = max(len(planned.block_ids) for planned in plan.sequences)
    tables = [[*p.block_ids, *(0,) * (widest - len(p.block_ids))] for p in plan.sequences]
    batch = TreeBatch(
        positions=torch.tensor(positions, device=device),
        slots=torch.tensor(slots, device=device),
        block_tables=torch.tensor(tables, device=device),
        context_lens=tuple(planned.num_computed for planned in plan.sequences),
        node_counts=tuple(planned.num_nodes for planned in plan.sequences),
        ancestors=None,
        block_size=block_size,
    )
    return StepInputs(
        torch.tensor(token_ids, device=device), batch, torch.tensor(logit_rows, device=device)
    )
