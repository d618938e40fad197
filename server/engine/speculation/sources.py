"""Which source proposed a node of a tree. Pure."""

from collections.abc import Iterable, Mapping

from server.engine.outputs import ProposalSource, SourceFigures
from server.engine.speculation.proposal import Kind, Proposal
from server.engine.speculation.tree import TokenTree

_SOURCES: dict[Kind, ProposalSource] = {
    "trunk": "draft",
    "leaf": "draft",
    "lookup": "lookup",
    "recent": "recent",
    "forced": "grammar",
}


def node_source(tree: TokenTree, node: int, proposal: Proposal | None) -> ProposalSource:
    """The source of one node.

    Args:
        node: any but the root.
        proposal: the proposal that the tree was made from; None for beams.
    """
    if proposal is None:
        return "beam"
    return _SOURCES[proposal.kind(tree.depths[node], tree.token_ids[node])]


def count_sources(
    proposed: Iterable[ProposalSource], accepted: Iterable[ProposalSource | None]
) -> Mapping[ProposalSource, SourceFigures]:
    """How many nodes each source proposed, and how many of these were accepted.

    Args:
        accepted: source of each new token, None for the target's own.
    """
    counts = dict[ProposalSource, list[int]]()
    for source in proposed:
        counts.setdefault(source, [0, 0])[0] += 1
    for source in accepted:
        if source is not None:
            counts.setdefault(source, [0, 0])[1] += 1
    return {source: SourceFigures(*both) for source, both in counts.items()}


def add_sources(
    one: Mapping[ProposalSource, SourceFigures], other: Mapping[ProposalSource, SourceFigures]
) -> Mapping[ProposalSource, SourceFigures]:
    """Adds two counts up."""
    total = dict(one)
    for source, more in other.items():
        known = total.get(source, SourceFigures())
        total[source] = SourceFigures(
            known.proposed + more.proposed, known.accepted + more.accepted
        )
    return total
