"""A drafter that knows the answers, and can be told what to get right."""

from collections.abc import Mapping, Sequence

from server.engine.drafters.drafter import Committed, EarlyStop
from server.engine.schedule.plan import PlannedSequence
from server.engine.speculation.proposal import Proposal
from server.engine.speculation.tree import TokenTree
from server.engine.types import RequestId
from tests.engine.tiny import VOCAB_SIZE

Pattern = str
"""Per depth: `T` the trunk is right, `L` a leaf is right, `x` neither; repeated step by step."""


class OracleDrafter:
    """Drafts from known answers, by patterns of right and wrong tokens.

    Args:
        answers: the plain run's tokens, by request.
        patterns: one per step, in turn; "" proposes nothing.
        confidence: claimed for every trunk token.
    """

    name = "oracle"

    def __init__(
        self,
        answers: Mapping[RequestId, Sequence[int]],
        patterns: Sequence[Pattern],
        confidence: float = 0.5,
    ) -> None:
        self.answers = answers
        self.patterns = patterns
        self.confidence = confidence
        self.num_calls = 0

    def draft(
        self, sequences: Sequence[PlannedSequence], depths: Sequence[int], stop: EarlyStop
    ) -> list[Proposal]:
        self.num_calls += 1
        return [self._proposal(s, depth) for s, depth in zip(sequences, depths, strict=True)]

    def draft_beams(
        self, sequences: Sequence[PlannedSequence], depths: Sequence[int], width: int
    ) -> list[TokenTree]:
        """A full tree: below each right token `width` children, the right one last."""
        self.num_calls += 1
        trees = list[TokenTree]()
        for sequence, depth in zip(sequences, depths, strict=True):
            token_ids, parents, parent = [sequence.token_ids[-1]], list[int](), 0
            for step in range(depth):
                right = self._truth(sequence, step)
                for token_id in [*_others(right, width - 1), right]:
                    token_ids.append(token_id)
                    parents.append(parent)
                parent = len(parents)
            trees.append(TokenTree(tuple(token_ids), tuple(parents)))
        return trees

    def commit(self, committed: Sequence[Committed]) -> None:
        """Nothing is kept."""

    def forget(self, request_id: RequestId) -> None:
        """Nothing is kept."""

    def _proposal(self, sequence: PlannedSequence, depth: int) -> Proposal:
        pattern = self.patterns[self.num_calls % len(self.patterns)]
        candidates = list[tuple[int, ...]]()
        for step in range(min(depth, len(pattern))):
            right = self._truth(sequence, step)
            wrong = _others(right, 7)
            if pattern[step] == "T":
                candidates.append((right, *wrong))
            elif pattern[step] == "L":
                candidates.append((wrong[0], right, *wrong[1:]))
            else:
                candidates.append((*wrong, (right + 8) % VOCAB_SIZE))
        rest = (1 - self.confidence) / 7
        return Proposal(
            tuple(candidates), tuple((self.confidence, *(rest,) * 7) for _ in candidates)
        )

    def _truth(self, sequence: PlannedSequence, step: int) -> int:
        """The plain run's token `step` places on; past its end, anything."""
        answer = self.answers[sequence.request.request_id]
        done = len(sequence.token_ids) - len(sequence.request.prompt_token_ids)
        return answer[done + step] if done + step < len(answer) else 0


def _others(right: int, count: int) -> tuple[int, ...]:
    return tuple((right + i + 1) % VOCAB_SIZE for i in range(count))
