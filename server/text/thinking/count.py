"""How many tokens of an answer are thinking."""

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from server.text.thinking.segments import Segment


class _Run(NamedTuple):
    end: int
    """In characters of the whole text."""
    is_thinking: bool


class ThinkingCount:
    """Counts the tokens that have a character of thinking; marks and layout are none.

    A token without a text of its own, such as the first byte of a character, counts with the
    character that follows.
    """

    def __init__(self) -> None:
        self.num_tokens = 0
        self._tokens = deque[tuple[int, int]]()
        """[begin, end) of those that aren't counted yet."""
        self._runs = deque[_Run]()
        self._num_read = 0
        self._num_settled = 0

    def token(self, num_characters: int) -> None:
        """A token was read, with so many characters."""
        begin = self._num_read
        self._num_read += num_characters
        self._tokens.append((begin, begin + max(num_characters, 1)))

    def settle(self, segments: Iterable[Segment]) -> None:
        """It is known what more of the text is."""
        for segment in segments:
            self._num_settled += len(segment.text)
            self._runs.append(_Run(self._num_settled, segment.kind == "thinking"))
        while self._tokens and self._tokens[0][1] <= self._num_settled:
            self.num_tokens += self._is_thinking(*self._tokens.popleft())

    def finish(self) -> None:
        """The text ended; what has no character goes with what came before."""
        if self._runs and self._runs[-1].is_thinking:
            self.num_tokens += len(self._tokens)
        self._tokens.clear()

    def _is_thinking(self, begin: int, end: int) -> bool:
        while self._runs and self._runs[0].end <= begin:
            self._runs.popleft()
        for run in self._runs:
            if run.is_thinking:
                return True
            if run.end >= end:
                break
        return False
