"""What became of a sequence's proposals: the path through its tree, and the tokens drawn on it."""

from dataclasses import dataclass, field

from server.engine.outputs import ProposalSource, TokenLogprobs
from server.engine.speculation.proposal import Proposal
from server.engine.speculation.sources import node_source
from server.engine.speculation.tree import ROOT, TokenTree


@dataclass(slots=True)
class TreeWalk:
    """One sequence's walk through its verified tree."""

    tree: TokenTree
    path: list[int] = field(default_factory=lambda: [ROOT])
    """Nodes that are committed, the root first."""
    token_ids: list[int] = field(default_factory=list[int])
    """Drawn tokens: one per node of the path. The last is the bonus token, in no node."""
    logprobs: list[TokenLogprobs] = field(default_factory=list[TokenLogprobs])
    proposal: Proposal | None = None
    """The proposal that the tree was made from; None for beams and lone roots."""

    def proposed(self) -> tuple[ProposalSource, ...]:
        """The source of each proposed node, in the tree's order."""
        return tuple(self._source(node) for node in range(1, len(self.tree)))

    def accepted(self) -> tuple[ProposalSource, ...]:
        """The source of each accepted node, along the path."""
        return tuple(self._source(node) for node in self.path[1:])

    def _source(self, node: int) -> ProposalSource:
        return node_source(self.tree, node, self.proposal)
