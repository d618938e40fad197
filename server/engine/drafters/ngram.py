"""Prompt lookup: proposes what followed the last time the same few tokens occurred. No weights.

Saxena, "Prompt Lookup Decoding", 2023. Good where answers repeat their prompt (editing,
summarising, code), and with `RecentOutputs` where they repeat earlier answers (agents, retries).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from server.engine.drafters.drafter import Committed, EarlyStop
from server.engine.schedule.plan import PlannedSequence
from server.engine.speculation.proposal import Proposal, found
from server.engine.speculation.recent import Place, RecentOutputs
from server.engine.speculation.tree import TokenTree, comb
from server.engine.types import RequestId

_CLAIMS = (0.2, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Confidence by how many tokens before are equal, from 1 on: how often the next one was right in
greedy answers of the default model (`docs/log.md`). Calibrated while serving."""
_FOLLOWED, _FOLLOWED_CLAIM = 16, 0.95
"""After this many tokens of following a recent answer, its tokens get this confidence."""


@dataclass(slots=True)
class _Index:
    """Where each n-gram of a sequence was last followed by something."""

    num_tokens: int = 0
    """Tokens indexed as what follows an n-gram."""
    following: dict[tuple[int, ...], int] = field(default_factory=dict[tuple[int, ...], int])
    """n-gram -> position after its latest occurrence."""
    sequence: PlannedSequence | None = None
    """The sequence of the latest call; its list of tokens grows with the engine's."""
    place: Place | None = None
    """Its place in a recent answer at that call."""
    num_known: int = 0
    """Tokens that it had at that call."""


class NgramDrafter:
    """Looks the sequence's last tokens up in the sequence itself.

    Args:
        lengths: lengths of the n-grams that are indexed, tried from long to short.
        recent: recent answers, used where the sequence itself says little; None for none.
    """

    name = "ngram"

    def __init__(
        self, lengths: Sequence[int] = (5, 3, 2, 1), recent: RecentOutputs | None = None
    ) -> None:
        self.lengths = sorted(lengths, reverse=True)
        self.recent = recent
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
        """The chain as a tree: lookup finds one continuation, whatever the beam's width."""
        proposals = zip(sequences, self._draft(sequences, depths), strict=True)
        return [comb(s.token_ids[-1], proposal.trunk, ()) for s, proposal in proposals]

    def commit(self, committed: Sequence[Committed]) -> None:
        """Does nothing: the index catches up when a proposal is wanted."""

    def forget(self, request_id: RequestId) -> None:
        index = self._indexes.pop(request_id, None)
        if self.recent is not None and index is not None and index.sequence is not None:
            request, token_ids = index.sequence.request, index.sequence.token_ids
            num_prompt = len(request.prompt_token_ids)
            self.recent.add(request.cache_salt, request.prompt_token_ids, token_ids[num_prompt:])

    def _propose(self, sequence: PlannedSequence, depth: int) -> Proposal:
        token_ids = sequence.token_ids
        index = self._indexes.setdefault(sequence.request.request_id, _Index())
        self._extend(index, token_ids)
        start = self._latest(index, token_ids)
        num_equal = 0 if start is None else _num_equal(token_ids, start)
        place = self._recent_place(index, sequence)
        if self.recent is not None and place is not None and place.num_equal > num_equal:
            tokens = self.recent.read(place, depth)
            return found(tokens, _claims(place.num_equal, len(tokens)), "recent")
        if start is None:
            return found((), (), "lookup")
        # What follows the match may be shorter than `depth`: it is taken to repeat itself.
        period = len(token_ids) - start
        tokens = [token_ids[start + i % period] for i in range(depth)]
        return found(tokens, _claims(num_equal, depth), "lookup")

    def _recent_place(self, index: _Index, sequence: PlannedSequence) -> Place | None:
        """The sequence's place in a recent answer: the one that it has followed so far, or one that
        is found now."""
        if self.recent is None:
            return None
        token_ids, request = sequence.token_ids, sequence.request
        place, known = index.place, index.num_known
        if place is not None:
            place = self.recent.follow(place, token_ids[known:])
        if place is None:
            num_prompt = len(request.prompt_token_ids)
            place = self.recent.find(request.cache_salt, token_ids, num_prompt)
        index.sequence, index.place, index.num_known = sequence, place, len(token_ids)
        return place

    def _latest(self, index: _Index, token_ids: Sequence[int]) -> int | None:
        """The position after the latest occurrence of the longest n-gram that occurred before."""
        for length in self.lengths:
            start = index.following.get(tuple(token_ids[-length:]))
            if start is not None:
                return start
        return None

    def _extend(self, index: _Index, token_ids: Sequence[int]) -> None:
        """Indexes the n-grams before each new token; the last n-gram is followed by nothing yet."""
        for position in range(max(index.num_tokens, 1), len(token_ids)):
            for length in self.lengths:
                if length <= position:
                    index.following[tuple(token_ids[position - length : position])] = position
        index.num_tokens = len(token_ids)


def _num_equal(token_ids: Sequence[int], start: int) -> int:
    """Counts how many tokens before `start` equal those at the end, up to the largest that
    matters."""
    count = 0
    while (
        count < min(start, len(_CLAIMS)) and token_ids[start - 1 - count] == token_ids[-1 - count]
    ):
        count += 1
    return count


def _claims(num_equal: int, count: int) -> list[float]:
    """Confidences of `count` tokens that follow after `num_equal` equal ones."""
    if num_equal >= _FOLLOWED:
        return [_FOLLOWED_CLAIM] * count
    return [_CLAIMS[min(num_equal + i, len(_CLAIMS)) - 1] for i in range(count)]
