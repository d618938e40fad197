"""From a draft's candidates to the trees of a step, on the device: `cape.expand` and the rule of
`auto.py` for all sequences at once, whatever each one's policy. Its twin is `step/host/expand.py`.

    every candidate [depth, rank] gets a score, higher where it is to be taken earlier
        chain   trunk tokens
        cape    trunk tokens, then leaves from the top down, as many as the table says
        auto    the chance to be reached and right
    the best nodes - 1 of each sequence are taken, and put in order: trunk first, then leaves

A parent never has a lower score than its child and comes first of equals, so trees stay whole.
"""

from typing import NamedTuple

import torch

from server.engine.speculation.calibration import NUM_BINS, Lines
from server.engine.speculation.cape import CapeConfig
from server.engine.step.device.draft import Drafted
from server.engine.step.device.seats import POLICIES, Rows


class Trees(NamedTuple):
    """Combs of equal size, node 0 the root. Where a sequence has fewer nodes, the rest come last
    and are not valid. Tensors [batch, nodes]."""

    token_ids: torch.Tensor
    depths: torch.Tensor
    parents: torch.Tensor
    """-1 for the root. A trunk node's number is its depth, so the parent of a node at depth d is
    d - 1."""
    is_valid: torch.Tensor
    is_trunk: torch.Tensor

    def ancestors(self) -> torch.Tensor:
        """[batch x nodes, nodes] bool, as `TreeBatch` has them."""
        num_nodes = self.depths.shape[1]
        node = torch.arange(num_nodes, device=self.depths.device)
        above = node <= self.parents[:, :, None]
        return (above | (node == node[:, None])).flatten(0, 1)


class Widths:
    """What decides how wide trees are, on the device.

    Args:
        cape: the table of policy `cape`.
    """

    def __init__(self, cape: CapeConfig, device: torch.device) -> None:
        self.thresholds = torch.tensor(cape.thresholds, device=device)
        self.leaves = torch.tensor(cape.leaves, device=device)
        prior = torch.stack((torch.zeros(NUM_BINS), torch.ones(NUM_BINS)))
        self.lines = prior.repeat(2, 1, 1).to(device)
        """[trunk and leaf, offset and slope, bins]: chances of acceptance by confidence."""

    def learn(self, trunk: Lines, leaf: Lines) -> None:
        """Replaces the chances of acceptance."""
        on_host = torch.tensor([[lines.offsets, lines.slopes] for lines in (trunk, leaf)])
        if self.lines.is_cuda:
            on_host = on_host.pin_memory()
        self.lines.copy_(on_host, non_blocking=True)


def expand(rows: Rows, drafted: Drafted, num_nodes: int, widths: Widths) -> Trees:
    """The trees of a step, num_nodes at most each."""
    _, depth, count = drafted.token_ids.shape
    taken = min(num_nodes - 1, depth * count)
    scores = _scores(rows, drafted, widths).flatten(1)
    # Stable: of equals the shallower first, so that no parent comes after its child.
    best, candidates = scores.sort(dim=1, descending=True, stable=True)
    best, candidates = best[:, :taken], candidates[:, :taken]
    place = torch.arange(taken, device=scores.device)
    is_valid = (best > 0) & (place < rows.max_nodes[:, None] - 1) & rows.is_live[:, None]

    above, rank = candidates // count, candidates % count
    order = torch.where(rank == 0, above, depth + candidates)
    order = torch.where(is_valid, order, depth * (count + 1)).argsort(dim=1, stable=True)
    is_valid, candidates = is_valid.gather(1, order), candidates.gather(1, order)
    token_ids = drafted.token_ids.flatten(1).gather(1, candidates)
    return _with_root(
        *(rows, token_ids, candidates // count, is_valid, candidates % count == 0, num_nodes)
    )


def _with_root(
    rows: Rows,
    token_ids: torch.Tensor,
    parents: torch.Tensor,
    is_valid: torch.Tensor,
    is_trunk: torch.Tensor,
    num_nodes: int,
) -> Trees:
    """Puts the root before the other nodes, and pads to num_nodes.

    Args:
        token_ids, parents, is_valid, is_trunk: values of nodes 1 and up.
    """
    num_missing = num_nodes - 1 - token_ids.shape[1]
    padded = torch.nn.functional.pad
    token_ids = padded(token_ids.where(is_valid, 0), (0, num_missing))
    parents = padded(parents.where(is_valid, -1), (0, num_missing), value=-1)
    is_trunk = padded(is_trunk & is_valid, (1, num_missing))
    is_valid = padded(is_valid, (0, num_missing))
    parents = padded(parents, (1, 0), value=-1)
    return Trees(
        torch.cat((rows.tokens[:, None], token_ids), dim=1),
        parents + 1,
        parents,
        torch.cat((rows.is_live[:, None], is_valid), dim=1),
        is_trunk,
    )


def _scores(rows: Rows, drafted: Drafted, widths: Widths) -> torch.Tensor:
    """[batch, depth, candidates] float32, above 0 for what may be taken."""
    _, depth, count = drafted.token_ids.shape
    device = drafted.token_ids.device
    at = torch.arange(depth, device=device)[:, None]
    rank = torch.arange(count, device=device)
    is_trunk = (rank == 0).expand(depth, count)
    size = 2.0 * depth * count
    trunk = torch.where(is_trunk, size - at, 0.0)
    by_table = torch.where(is_trunk, trunk, size / 2 - (at * count + rank))
    policy = rows.policies[:, None, None]
    scores = torch.where(policy == POLICIES.index("chain"), trunk, 0.0)
    in_table = rank <= _leaves(drafted, widths)
    cape = torch.where(is_trunk | in_table, by_table, 0.0)
    scores = torch.where(policy == POLICIES.index("cape"), cape, scores)
    scores = torch.where(policy == POLICIES.index("auto"), _gains(drafted, widths.lines), scores)
    return torch.where(at < rows.max_depth[:, None, None], scores, 0.0)


def _leaves(drafted: Drafted, widths: Widths) -> torch.Tensor:
    """[batch, depth, 1] number of alternatives beside each trunk token, by CaPE's table."""
    bounds = widths.thresholds[:-1]  # the last range has no upper bound
    return widths.leaves[torch.bucketize(drafted.confidences[:, :, :1].contiguous(), bounds)]


def _gains(drafted: Drafted, lines: torch.Tensor) -> torch.Tensor:
    """[batch, depth, candidates] chances of being reached and right, as `auto.py` has them."""
    confidences = drafted.confidences
    bins = (confidences * NUM_BINS).long().clamp(max=NUM_BINS - 1)
    trunk, leaf = (
        (offsets[bins] + slopes[bins] * confidences).clamp(max=1.0)
        for offsets, slopes in (kind.unbind() for kind in lines.unbind())
    )
    first = trunk[:, :, :1]
    survival = first.cumprod(dim=1)
    reached = torch.cat((torch.ones_like(first[:, :1]), survival[:, :-1]), dim=1)
    chances = torch.cat((first, torch.minimum(leaf[:, :, 1:], 1 - first)), dim=2)
    return reached * chances
