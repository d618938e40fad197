"""Proposals under a grammar: what it forbids is dropped, what it forces is added. Pure.

A forbidden token is never drawn, so verifying it would be wasted; and where the draft's choice is
forbidden, another of its candidates may be right. Verification decides as always: this changes how
many tokens a step yields and never which.
"""

from collections.abc import Sequence
from typing import Protocol

from server.engine.speculation.proposal import Kind, Proposal
from server.engine.speculation.tree import ROOT, TokenTree

FORCED = 0.99
"""Confidence of a forced token. Its text is certain, but not how the text is cut into tokens."""


_FORCED_KIND: tuple[Kind, ...] = ("forced",)


class Follows(Protocol):
    """What proposals need of a grammar's state (`state.py`)."""

    def accept(self, token_id: int) -> bool:
        """Advances by a token; False, and no change, if the grammar forbids it."""
        ...

    def rollback(self, num_tokens: int) -> None:
        """Takes the last accepted tokens back."""
        ...

    def forced_tokens(self, most: int) -> Sequence[int]:
        """Up to `most` tokens of the text that must follow; empty where there is a choice."""
        ...


def constrain(proposal: Proposal, state: Follows, max_depth: int) -> Proposal:
    """The proposal without forbidden tokens, and with forced ones after it.

    Where the trunk's token is forbidden, the best allowed candidate takes its place and the drafted
    part ends, since what was drafted below belongs to another token.

    Args:
        state: the state after the last known token; unchanged on return.
        max_depth: longest result, in tokens.
    """
    candidates, confidences = list[tuple[int, ...]](), list[tuple[float, ...]]()
    kinds = list[tuple[Kind, ...]]()
    for tokens, probabilities, said_by in zip(
        proposal.candidates, proposal.confidences, proposal.kinds, strict=True
    ):
        allowed = [i for i, token_id in enumerate(tokens) if _allows(state, token_id)]
        if not allowed or len(candidates) == max_depth:
            break
        # Forbidden tokens have no probability, so the others' shares grow.
        mass = max(1.0 - sum(p for i, p in enumerate(probabilities) if i not in allowed), 1e-6)
        candidates.append(tuple(tokens[i] for i in allowed))
        confidences.append(tuple(min(probabilities[i] / mass, 1.0) for i in allowed))
        kinds.append(tuple(said_by[i] for i in allowed))
        state.accept(tokens[allowed[0]])
        if allowed[0] != 0:
            break
    num_drafted = len(candidates)
    candidates += [(token_id,) for token_id in _forced(state, max_depth - num_drafted)]
    state.rollback(num_drafted)
    num_forced = len(candidates) - num_drafted
    confidences += [(FORCED,)] * num_forced
    kinds += [_FORCED_KIND] * num_forced
    num_written = min(proposal.num_written, num_drafted)
    return Proposal(tuple(candidates), tuple(confidences), tuple(kinds), num_written)


def prune(tree: TokenTree, state: Follows) -> TokenTree:
    """A beam's tree without forbidden nodes and what is below them.

    Args:
        state: the state after the root; unchanged on return.
    """
    kept = [ROOT]
    _keep_below(tree, ROOT, state, kept)
    kept.sort()
    place = {node: index for index, node in enumerate(kept)}
    return TokenTree(
        tuple(tree.token_ids[node] for node in kept),
        tuple(place[tree.parents[node - 1]] for node in kept[1:]),
    )


def _keep_below(tree: TokenTree, parent: int, state: Follows, kept: list[int]) -> None:
    for node, above in enumerate(tree.parents, start=1):
        if above == parent and state.accept(tree.token_ids[node]):
            kept.append(node)
            _keep_below(tree, node, state, kept)
            state.rollback(1)


def _allows(state: Follows, token_id: int) -> bool:
    # Two microseconds; a mask of the whole vocabulary can take a hundred.
    if not state.accept(token_id):
        return False
    state.rollback(1)
    return True


def _forced(state: Follows, most: int) -> Sequence[int]:
    return state.forced_tokens(most) if most > 0 else ()
