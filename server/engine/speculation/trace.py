"""One step of one sequence, for people to look at. Pure."""

from collections.abc import Sequence
from dataclasses import replace

from server.engine.outputs import StepTrace, TokenSource, TracedNode
from server.engine.schedule.plan import StepSeconds
from server.engine.speculation.proposal import Proposal
from server.engine.speculation.sources import node_source
from server.engine.speculation.tree import TokenTree


def trace_step(tree: TokenTree, path: Sequence[int], proposal: Proposal | None) -> StepTrace:
    """Traces what was proposed and accepted.

    Args:
        path: accepted nodes, the root first.
        proposal: the chain that the tree was made from; None for beams and where nothing was
            proposed.
    """
    nodes = tuple(
        TracedNode(
            token_id=tree.token_ids[node],
            parent=tree.parents[node - 1],
            is_leaf=tree.is_leaf(node),
            source=node_source(tree, node, proposal),
            confidence=_confidence(tree, node, proposal),
        )
        for node in range(1, len(tree))
    )
    source = nodes[0].source if nodes else None
    return StepTrace(tree.token_ids[0], nodes, tuple(path[1:]), source)


def finished_trace(
    trace: StepTrace | None, sources: Sequence[TokenSource], seconds: StepSeconds
) -> StepTrace | None:
    """Completes a trace with what is known once the step's tokens are the sequence's.

    Args:
        sources: sources of the tokens that were kept; a stop may have cut the accepted path.
    """
    if trace is None:
        return None
    num_accepted = sum(source != "target" for source in sources)
    return replace(
        trace,
        accepted=trace.accepted[:num_accepted],
        draft_seconds=seconds.draft,
        verify_seconds=seconds.verify,
        other_seconds=seconds.other,
    )


def _confidence(tree: TokenTree, node: int, proposal: Proposal | None) -> float | None:
    if proposal is None:
        return None
    depth = tree.depths[node] - 1
    rank = proposal.candidates[depth].index(tree.token_ids[node])
    return proposal.confidences[depth][rank]
