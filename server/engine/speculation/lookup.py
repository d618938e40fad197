"""Where a text repeats itself: what followed the last time its last tokens occurred.

Saxena, "Prompt Lookup Decoding", 2023. What is found is proposed as it is (`drafters/ngram.py`),
and is the hint of a draft that takes one, in training by the same rule
(`weights/train/fit/copy_hints.py`).
"""

from collections.abc import Sequence
from typing import NamedTuple

from server.engine.types import RequestId

LENGTHS = (5, 3, 2, 1)
"""Tokens of the n-grams that are indexed."""
MOST_EQUAL = 6
"""Most equal tokens that are counted: more make what follows hardly more certain."""


class Match(NamedTuple):
    """An earlier occurrence of a text's last tokens."""

    start: int
    """Position of the token that followed it."""
    num_equal: int
    """Tokens before it that equal the text's last ones, from 1 to `MOST_EQUAL`."""


class TextIndex:
    """Where each n-gram of a growing text was last followed by something.

    Args:
        lengths: lengths of the n-grams; the longest one that occurred before counts.
    """

    __slots__ = ("_following", "_lengths", "_num_tokens")

    def __init__(self, lengths: Sequence[int] = LENGTHS) -> None:
        self._lengths = sorted(lengths, reverse=True)
        self._following = dict[tuple[int, ...], int]()
        """n-gram -> position after its latest occurrence."""
        self._num_tokens = 0
        """Tokens indexed as what follows an n-gram."""

    def find(self, token_ids: Sequence[int], end: int | None = None) -> Match | None:
        """Looks up the last tokens before `end`, by default the text's end.

        Args:
            token_ids: what earlier calls had, and more; `end` only grows, too.
        """
        end = len(token_ids) if end is None else end
        self._extend(token_ids, end)
        for length in self._lengths:
            start = (
                self._following.get(tuple(token_ids[end - length : end])) if length <= end else None
            )
            if start is not None:
                return Match(start, _num_equal(token_ids, start, end))
        return None

    def _extend(self, token_ids: Sequence[int], end: int) -> None:
        """Indexes the n-grams before each new token; the last n-gram is followed by nothing yet."""
        for position in range(max(self._num_tokens, 1), end):
            for length in self._lengths:
                if length <= position:
                    self._following[tuple(token_ids[position - length : position])] = position
        self._num_tokens = end


class TextIndexes:
    """The index of each sequence, shared by all that look up in it."""

    def __init__(self, lengths: Sequence[int] = LENGTHS) -> None:
        self._lengths = lengths
        self._indexes = dict[RequestId, TextIndex]()

    def find(self, request_id: RequestId, token_ids: Sequence[int]) -> Match | None:
        """Looks up the last tokens of a sequence."""
        index = self._indexes.get(request_id)
        if index is None:
            index = self._indexes[request_id] = TextIndex(self._lengths)
        return index.find(token_ids)

    def forget(self, request_id: RequestId) -> None:
        self._indexes.pop(request_id, None)


def matches(token_ids: Sequence[int]) -> list[Match | None]:
    """What is found behind each token of a text, as far as the text goes there."""
    index = TextIndex()
    return [index.find(token_ids, end) for end in range(1, len(token_ids) + 1)]


def source(match: Match, end: int, index: int) -> int:
    """The position of the token that is expected `index` tokens behind a text of `end` tokens. What
    follows the match may be shorter than that: it is taken to repeat itself."""
    return match.start + index % (end - match.start)


def _num_equal(token_ids: Sequence[int], start: int, end: int) -> int:
    count = 0
    while (
        count < min(start, MOST_EQUAL)
        and token_ids[start - 1 - count] == token_ids[end - 1 - count]
    ):
        count += 1
    return count
