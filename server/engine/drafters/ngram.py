"""Prompt lookup: proposes what followed the last time the same few tokens occurred. No weights.

Saxena, "Prompt Lookup Decoding", 2023. Good where answers repeat their prompt (editing,
summarising, code), and with `RecentOutputs` where they repeat earlier answers (agents, retries).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from server.engine.drafters.drafter import Committed, EarlyStop
from server.engine.schedule.plan import PlannedSequence
from server.engine.speculation.lookup import TextIndexes, source
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
class _Followed:
    """A sequence beside recent answers."""

    sequence: PlannedSequence
    """The sequence of the latest call; its list of tokens grows with the engine's."""
    place: Place | None
    """Its place in a recent answer at that call."""
    num_known: int
    """Tokens that it had at that call."""


class NgramDrafter:
    """Looks the sequence's last tokens up in the sequence itself.

    Args:
        texts: the sequences' indexes, which others may use too.
        recent: recent answers, used where the sequence itself says little; None for none.
    """

    name = "ngram"

    def __init__(
        self, texts: TextIndexes | None = None, recent: RecentOutputs | None = None
    ) -> None:
        self.texts = texts or TextIndexes()
        self.recent = recent
        self._followed: dict[RequestId, _Followed] = {}

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
        self.texts.forget(request_id)
        followed = self._followed.pop(request_id, None)
        if self.recent is not None and followed is not None:
            request, token_ids = followed.sequence.request, followed.sequence.token_ids
            num_prompt = len(request.prompt_token_ids)
            self.recent.add(request.cache_salt, request.prompt_token_ids, token_ids[num_prompt:])

    def _propose(self, sequence: PlannedSequence, depth: int) -> Proposal:
        token_ids = sequence.token_ids
        match = self.texts.find(sequence.request_id, token_ids)
        num_equal = 0 if match is None else match.num_equal
        place = self._recent_place(sequence)
        if self.recent is not None and place is not None and place.num_equal > num_equal:
            tokens = self.recent.read(place, depth)
            return found(tokens, _claims(place.num_equal, len(tokens)), "recent")
        if match is None:
            return found((), (), "lookup")
        tokens = [token_ids[source(match, len(token_ids), i)] for i in range(depth)]
        return found(tokens, _claims(num_equal, depth), "lookup")

    def _recent_place(self, sequence: PlannedSequence) -> Place | None:
        """The sequence's place in a recent answer: the one that it has followed so far, or one that
        is found now."""
        if self.recent is None:
            return None
        token_ids, request = sequence.token_ids, sequence.request
        followed = self._followed.get(sequence.request_id)
        place = None if followed is None else followed.place
        if followed is not None and place is not None:
            place = self.recent.follow(place, token_ids[followed.num_known :])
        if place is None:
            num_prompt = len(request.prompt_token_ids)
            place = self.recent.find(request.cache_salt, token_ids, num_prompt)
        self._followed[sequence.request_id] = _Followed(sequence, place, len(token_ids))
        return place


def _claims(num_equal: int, count: int) -> list[float]:
    """Confidences of `count` tokens that follow after `num_equal` equal ones."""
    if num_equal >= _FOLLOWED:
        return [_FOLLOWED_CLAIM] * count
    return [_CLAIMS[min(num_equal + i, len(_CLAIMS)) - 1] for i in range(count)]
