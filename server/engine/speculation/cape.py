"""CaPE's widths: the less sure the draft, the more alternatives join (paper §3.2). Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from server.engine.speculation.tree import TokenTree, comb


@dataclass(frozen=True, slots=True)
class CapeConfig:
    """The paper's table by default."""

    thresholds: tuple[float, ...] = (0.3, 0.6, 0.8, 1.0)
    """Upper ends of the confidence ranges, ascending, the last one 1."""
    leaves: tuple[int, ...] = (7, 5, 3, 1)
    """Alternatives beside the trunk's token, per range."""

    def num_leaves(self, confidence: float) -> int:
        """Alternatives at a depth; confidence: the draft's probability of its top token there."""
        for threshold, count in zip(self.thresholds, self.leaves, strict=True):
            if confidence <= threshold:
                return count
        return self.leaves[-1]


def expand(
    root: int,
    candidates: Sequence[Sequence[int]],
    confidences: Sequence[Sequence[float]],
    config: CapeConfig,
    max_nodes: int,
) -> TokenTree:
    """The comb of one proposal.

    Args:
        candidates, confidences: per depth, by falling probability (`Proposal`).
        max_nodes: most nodes of the tree, root included. The trunk comes first; then leaves from
            the top down, because a leaf only counts if everything above it is accepted.
    """
    trunk = [tokens[0] for tokens in candidates][: max_nodes - 1]
    room = max_nodes - 1 - len(trunk)
    leaves = list[Sequence[int]]()
    for tokens, probabilities in list(zip(candidates, confidences, strict=True))[: len(trunk)]:
        count = min(config.num_leaves(probabilities[0]), len(tokens) - 1, room)
        leaves.append(tokens[1 : 1 + count])
        room -= count
    return comb(root, trunk, leaves)
