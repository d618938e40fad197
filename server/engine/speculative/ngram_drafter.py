"""Prompt lookup: proposes what followed the last time the same few tokens occurred. No weights.

Saxena, "Prompt Lookup Decoding", 2023. Good where answers repeat their prompt: editing,
summarising, code.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from server.engine.plan import PlannedSequence
from server.engine.speculative.drafter import Committed, EarlyStop
from server.engine.speculative.proposal import Proposal
from server.engine.speculative.tree import TokenTree, comb
from server.engine.types import RequestId


@dataclass(slots=True)
class _Index:
    """Where each n-gram of a sequence was last followed by something."""

    num_tokens: int = 0
    """Tokens indexed as what follows an n-gram."""
    following: dict[tuple[int, ...], int] = field(default_factory=dict[tuple[int, ...], int])
    """n-gram -> position after its latest occurrence."""


class NgramDrafter:
    """Looks the sequence's last tokens up in the sequence itself.

    Args:
        longest, shortest: lengths of the n-gram that must match, tried from long to short.
        confidence: what is claimed for a match; the `auto` policy calibrates it.
    """

    name = "ngram"

    def __init__(self, longest: int = 3, shortest: int = 1, confidence: float = 0.5) -> None:
        self.lengths = range(longest, shortest - 1, -1)
        self.confidence = confidence
        self._indexes: dict[RequestId, _Index] = {}

    def draft(
        self, sequences: Sequence[PlannedSequence], depths: Sequence[int], stop: EarlyStop
    ) -> list[Proposal]:
        return self._draft(sequences, depths)

    def _draft(self, sequences: Sequence[PlannedSequence], depths: Sequence[int]) -> list[Proposal]:
        return [self._propose(s, depth) for s, depth in zip(sequences, depths, strict=True)]

    def draft_beams(
        self, sequences: Sequence[PlannedSequence], depths: Sequence[int], width: int
    ) -> list[TokenTree]:
        """There is one continuation: a beam of any width is the chain."""
        proposals = zip(sequences, self._draft(sequences, depths), strict=True)
        return [comb(s.token_ids[-1], proposal.trunk, ()) for s, proposal in proposals]

    def commit(self, committed: Sequence[Committed]) -> None:
        """The index catches up when it is asked."""

    def forget(self, request_id: RequestId) -> None:
        self._indexes.pop(request_id, None)

    def _propose(self, sequence: PlannedSequence, depth: int) -> Proposal:
        token_ids = sequence.token_ids
        index = self._indexes.setdefault(sequence.request.request_id, _Index())
        self._extend(index, token_ids)
        found: Sequence[int] = ()
        for length in self.lengths:
            start = index.following.get(tuple(token_ids[-length:]))
            if start is not None:
                found = token_ids[start : start + depth]
                break
        return Proposal(
            tuple((token_id,) for token_id in found), tuple((self.confidence,) for _ in found)
        )

    def _extend(self, index: _Index, token_ids: Sequence[int]) -> None:
        """Indexes the n-grams before each new token; the last n-gram is followed by nothing yet."""
        for position in range(max(index.num_tokens, 1), len(token_ids)):
            for length in self.lengths:
                if length <= position:
                    index.following[tuple(token_ids[position - length : position])] = position
        index.num_tokens = len(token_ids)
