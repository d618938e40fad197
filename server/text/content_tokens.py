"""Which tokens an answer's content is made of: logprobs of the answer are those of these tokens."""

from collections import deque
from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

from server.text.thinking.parser import ThinkingParser
from server.text.tools.events import AnswerEvent, ContentDelta
from server.text.tools.parser import ToolParser

AnswerParser = ToolParser | ThinkingParser

T = TypeVar("T")


class _Token(NamedTuple, Generic[T]):
    """A token in `[begin, end)` of the text that the parser reads."""

    entry: T
    begin: int
    end: int


class ContentTokens(Generic[T]):
    """Tokens of thinking, of calls and of markup are left out. A token that is content in part
    counts; one without a text of its own, such as the first half of a character, belongs to what
    follows.

    Tokens are read one at a time, so that how they come in steps makes no difference.
    """

    def __init__(self, parser: AnswerParser) -> None:
        self._parser = parser
        self._num_read = 0
        self._undecided = deque[_Token[T]]()
        self._found: list[tuple[int, T]] = []
        """What is not taken yet, each with the number of its content's event in the answer."""
        self._before = parser.content_count

    def read(self, entry: T, text: str) -> bool:
        """Lets the parser read a token's text; returns what the parser does."""
        begin, self._num_read = self._num_read, self._num_read + len(text)
        self._undecided.append(_Token(entry, begin, self._num_read))
        is_decided = self._parser.read(text)
        self._decide(self._num_read - self._parser.num_held)
        return is_decided

    def take(
        self, events: Sequence[AnswerEvent], *, ended: bool = False
    ) -> tuple[tuple[T, ...], ...]:
        """The tokens of each event; none of an event that is no content.

        Args:
            events: All that the parser has handed out since the last time.
            ended: No text follows.
        """
        if ended:
            self._decide(self._num_read)
        num_contents = sum(isinstance(event, ContentDelta) for event in events)
        number = self._parser.content_count.num_events - num_contents
        found: list[tuple[T, ...]] = []
        for event in events:
            is_content = isinstance(event, ContentDelta)
            number += is_content
            found.append(tuple(e for n, e in self._found if n == number) if is_content else ())
        self._found.clear()
        return tuple(found)

    def _decide(self, end: int) -> None:
        """Looks at the tokens in front of a place, behind which all is still held back: if content
        was found since the last time it is theirs. One that reaches behind it may still become
        content there."""
        count = self._parser.content_count
        has_content, self._before = count != self._before, count
        left: list[_Token[T]] = []
        while self._undecided and self._undecided[0].begin < end:
            token = self._undecided.popleft()
            stop = min(max(token.end, token.begin + 1), end)
            if has_content and self._parser.is_answer(token.begin, stop):
                self._found.append((count.num_events, token.entry))
            elif token.end > end:
                left.append(token)
        self._undecided.extendleft(reversed(left))
