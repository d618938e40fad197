"""Moves accepted KV to its final slots, and says what KV the draft still has to write.

The twin of `move_accepted` is in `step/device/step.py`.
"""

from collections.abc import Sequence

import torch

from server.engine.drafters.drafter import Committed
from server.engine.schedule.plan import PlannedSequence
from server.engine.step.inputs import slots_of
from server.engine.step.kv_cache import CopyKV, copy_kv
from server.engine.step.walk import TreeWalk
from server.kernels.tree import LayerCache

Walk = tuple[PlannedSequence, TreeWalk]


def move_accepted(
    caches: Sequence[LayerCache], walks: Sequence[Walk], block_size: int, copy: CopyKV = copy_kv
) -> None:
    """Copies the KV of accepted nodes to the slots of their positions.

    In a comb only an accepted leaf is out of place: at most one token per sequence.
    """
    sources, targets = list[int](), list[int]()
    for planned, walk in walks:
        moved = [(node, depth) for depth, node in enumerate(walk.path) if node != depth]
        start = planned.num_computed
        sources += slots_of(planned.block_ids, [start + node for node, _ in moved], block_size)
        targets += slots_of(planned.block_ids, [start + depth for _, depth in moved], block_size)
    if sources:
        copy(caches, sources, targets)


def committed_tokens(
    planned: PlannedSequence, walk: TreeWalk, num_written: int, hidden: torch.Tensor
) -> Committed:
    """What became final for a sequence that drew tokens.

    Args:
        num_written: positions from the root on whose draft KV drafting has written, assuming the
            trunk was accepted.
        hidden: [hidden] hidden state at the path's last node.
    """
    tokens = [walk.tree.token_ids[node] for node in walk.path]
    # At most the trunk: where it was shortened, a leaf may lie in the next trunk token's slot.
    limit = min(num_written, len(walk.path), walk.tree.num_trunk + 1)
    valid = 0
    while valid < limit and walk.path[valid] == valid:
        valid += 1
    start = planned.num_computed + valid
    return Committed(planned, tuple(tokens[valid:]), start, hidden)


def committed_chunk(planned: PlannedSequence, last_hidden: torch.Tensor | None) -> Committed:
    """What became final for a sequence that computed a chain of pending tokens.

    Args:
        last_hidden: [hidden] hidden state at the chain's last node where that is the last known
            token.
    """
    start = planned.num_computed
    tokens = tuple(planned.token_ids[start : start + planned.num_nodes])
    return Committed(planned, tokens, start, last_hidden)
