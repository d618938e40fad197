"""Acceptance by sample-and-match on the device: `accept.py` for all sequences at once.

Tokens were drawn at every node (`draw.py`); a walk goes from the root to the child that has the
drawn token, as long as there is one. Every round does the same for all sequences, as many rounds as
trees are deep: nothing is asked of the host.
"""

from typing import NamedTuple

import torch

from server.engine.step.device.expand import Trees


class Walks(NamedTuple):
    """What became of a step's trees."""

    counts: torch.Tensor
    """[batch] committed nodes, which is how many tokens are emitted; 0 of dead rows, and where the
    root's draw is not decided."""
    path: torch.Tensor
    """[batch, depth + 1] nodes; beyond counts the last one again."""
    token_ids: torch.Tensor
    """[batch, depth + 1] drawn at the path's nodes."""

    @property
    def last(self) -> torch.Tensor:
        """[batch] the last committed node; the root where there is none."""
        return self.path[:, -1]


def follow(trees: Trees, drawn: torch.Tensor, decided: torch.Tensor, depth: int) -> Walks:
    """Walks all trees.

    Args:
        drawn: [batch, nodes] a token per node, void where not decided.
        decided: [batch, nodes] bool. A node whose token is not decided is not walked onto: its own
            token then is the last one, and the next step's root.
        depth: of the deepest tree.
    """
    at = torch.zeros_like(trees.token_ids[:, 0])
    going = trees.is_valid[:, 0] & decided[:, 0]
    counts, path, token_ids = going.long(), list[torch.Tensor](), list[torch.Tensor]()
    for step in range(depth + 1):
        token = drawn.gather(1, at[:, None])
        path.append(at)
        token_ids.append(token[:, 0])
        if step == depth:
            break
        is_child = (trees.parents == at[:, None]) & (trees.token_ids == token)
        is_child &= trees.is_valid & decided
        going = going & is_child.any(dim=1)
        child = is_child.int().argmax(dim=1)  # there is one at most
        counts = counts + going
        at = torch.where(going, child, at)
    return Walks(counts, torch.stack(path, dim=1), torch.stack(token_ids, dim=1))
