"""Ends answers that go round in circles: small models do, and a draft learns little from that."""

from collections import deque
from collections.abc import Sequence

_CONTEXT = 5
"""Tokens that have to stand equal before a token that repeats."""
MOST_REPEATED = 32
"""Repeating tokens in a row after which an answer is cut: a table or a refrain has fewer."""


class LoopDetector:
    """Watches one answer.

    A token repeats where, the last time the same five tokens stood before, the same one followed.
    So many repeat in a row where the answer quotes itself, too; in a loop they come back to where
    they began to repeat.
    """

    def __init__(self) -> None:
        self.found = False
        """Whether the answer is a loop."""
        self._next: dict[tuple[int, ...], tuple[int, int]] = {}
        """Five tokens -> the token that followed them last, and its position."""
        self._num_tokens = 0
        self._period = 0
        """How far back the last repeated token stood."""
        self._context = deque[int](maxlen=_CONTEXT)
        self._num_repeated = 0

    def take(self, token_ids: Sequence[int]) -> Sequence[int]:
        """Takes in what the answer goes on with; returns it up to where it is a loop."""
        for count, token_id in enumerate(token_ids, start=1):
            self._add(token_id)
            if self._num_repeated >= max(MOST_REPEATED, self._period):
                self.found = True
                return token_ids[:count]
        return token_ids

    def _add(self, token_id: int) -> None:
        context = tuple(self._context)
        self._context.append(token_id)
        self._num_tokens += 1
        if len(context) == _CONTEXT:
            earlier, position = self._next.get(context, (None, 0))
            self._num_repeated = self._num_repeated + 1 if earlier == token_id else 0
            self._period = self._num_tokens - position
            self._next[context] = (token_id, self._num_tokens)
