"""One request's output: token ids in, text that may be shown out.

Combines the detokenizer, the stop strings and a parser of thinking and calls, and keeps logprobs
beside the text they belong to. Used by the API and by offline generation alike.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Generic, NamedTuple, TypeVar

from server.text.content_tokens import AnswerParser, ContentTokens
from server.text.detokenizer import Detokenizer
from server.text.thinking.segments import Splitter
from server.text.thinking.stops import AnswerStops
from server.text.tokenizer import Tokenizer
from server.text.tools.events import AnswerEvent, ContentDelta

L = TypeVar("L")
"""Whatever the caller keeps for each token; logprobs, but this module doesn't look inside."""


class PlacedLogprobs(NamedTuple, Generic[L]):
    """Logprobs of one token, and where its text begins (in characters of the output)."""

    logprobs: L
    text_offset: int


@dataclass(frozen=True, slots=True)
class TextDelta(Generic[L]):
    """What one push released."""

    text: str
    """The released text; with a parser its content alone."""
    logprobs: tuple[PlacedLogprobs[L], ...]
    """Entries of the tokens whose text is now released. A token is held with its text."""
    stop_string: str | None
    """The stop string that ended the output; nothing follows."""
    events: tuple[AnswerEvent, ...] | None = None
    """Thinking, content and calls in their order; None without a parser."""
    event_logprobs: tuple[tuple[PlacedLogprobs[L], ...], ...] = ()
    """For each event the entries of the tokens that its content is made of; none of an event that
    is no content, though `logprobs` has those too."""
    offsets: tuple[int, ...] = ()
    """Where the text of each token that was read begins, in characters of the decoded text; of a
    stop token, where the text ends."""


@dataclass(frozen=True, slots=True)
class _HeldToken(Generic[L]):
    """A token in `[begin, end)` of the decoded text, not released yet. One that ends inside a
    character ends with that character."""

    logprobs: L
    begin: int
    end: int


class TextStream(Generic[L]):
    """Text of one sequence.

    Args:
        stop: Stop strings; the output ends before the first one.
        min_tokens: Stop strings are not looked for in the text of this many first tokens.
        continues_text: See `Detokenizer`.
        parser: Finds thinking and calls in the text; markup that is special tokens is shown to it.
        shows_stop: The stop string that ends the output is shown, or the stop token.
        shows_special: The text of special tokens is shown.
        splitter: Finds the answer, behind the thinking: stop strings are looked for in it alone.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        stop: Sequence[str] = (),
        min_tokens: int = 0,
        continues_text: bool = False,
        parser: AnswerParser | None = None,
        splitter: Splitter | None = None,
        shows_stop: bool = False,
        shows_special: bool = False,
    ) -> None:
        self._parser = parser
        self._content = None if parser is None else ContentTokens[PlacedLogprobs[L]](parser)
        shown_ids = tokenizer.special_ids
        if not shows_special:
            shown_ids = frozenset() if parser is None else tokenizer.ids_of(parser.marks)
        self._detokenizer = Detokenizer(
            tokenizer, continues_text=continues_text, shown_ids=shown_ids
        )
        self._stop = AnswerStops(stop, splitter, shows_match=shows_stop)
        self._shows_stop = shows_stop
        self._min_tokens = min_tokens
        self._held: deque[_HeldToken[L]] = deque()
        self._offsets: list[int] = []
        self._num_decoded = 0
        self._num_released = 0
        """Characters that are certainly no part of a stop string."""
        self._num_shown = 0
        self._waiting = ""
        """Released characters that aren't shown yet. Where tokens have logprobs, each shows its
        text all at once, since a stream's piece has the logprobs of its text."""
        self._undecided: list[PlacedLogprobs[L]] = []
        """Logprobs of text that may become content or a call."""
        self.num_tokens = 0
        """Tokens read, up to the one that completed a stop string and including a stop token."""

    @property
    def num_calls(self) -> int:
        """Function calls found so far."""
        return 0 if self._parser is None else self._parser.num_calls

    @property
    def ends_in_call(self) -> bool:
        """Whether the answer, once it has ended, ends within a function call."""
        return self._parser is not None and self._parser.ends_in_call

    @property
    def num_thinking_tokens(self) -> int:
        """Tokens of thinking, as far as it is known what they are."""
        return self._stop.thinking.num_tokens

    def push(
        self,
        token_ids: Sequence[int],
        logprobs: Sequence[L] | None = None,
        *,
        ended: bool = False,
        has_stop_token: bool = False,
    ) -> TextDelta[L]:
        """Reads one step's tokens.

        Args:
            logprobs: One for each token, or None.
            ended: No tokens follow: text held back is released.
            has_stop_token: The last token ended the request; its text is hidden unless stops are
                shown.
        """
        self._offsets.clear()
        delta = self._push(token_ids, logprobs, ended, has_stop_token)
        delta = replace(delta, offsets=tuple(self._offsets))
        if self._parser is None or self._content is None:
            return delta
        ended = ended or delta.stop_string is not None
        return self._parsed(self._parser, self._content, delta, ended=ended)

    def _parsed(
        self,
        parser: AnswerParser,
        tokens: ContentTokens[PlacedLogprobs[L]],
        delta: TextDelta[L],
        *,
        ended: bool,
    ) -> TextDelta[L]:
        """What of the text is content and what are calls. Logprobs of a text that may become either
        wait for it."""
        if not delta.logprobs:
            parser.read(delta.text)
        released: list[PlacedLogprobs[L]] = []
        start = self._num_shown - len(delta.text)
        begins = [placed.text_offset - start for placed in delta.logprobs]
        for placed, begin, end in zip(delta.logprobs, begins, [*begins[1:], None], strict=False):
            self._undecided.append(placed)
            if tokens.read(placed, delta.text[begin:end]):
                released += self._undecided
                self._undecided.clear()
        events = parser.finish() if ended else parser.push("")
        if ended:
            released += self._undecided
            self._undecided.clear()
        content = "".join(event.text for event in events if isinstance(event, ContentDelta))
        return replace(
            delta,
            text=content,
            events=tuple(events),
            event_logprobs=tokens.take(events, ended=ended),
            logprobs=tuple(released),
        )

    def _push(
        self,
        token_ids: Sequence[int],
        logprobs: Sequence[L] | None,
        ended: bool,
        has_stop_token: bool,
    ) -> TextDelta[L]:
        has_stop_token = has_stop_token and not self._shows_stop
        num_shown = len(token_ids) - has_stop_token
        texts: list[str] = []
        for index in range(num_shown):
            entry = None if logprobs is None else logprobs[index]
            text, matched = self._push_token(token_ids[index], entry)
            texts.append(text)
            if matched is not None:
                return self._cut(texts, matched)
        if has_stop_token:
            self.num_tokens += 1
            self._offsets.append(self._num_decoded)
        if ended:
            text, matched = self._stop.finish()
            texts.append(text)
            if matched is not None:
                return self._cut(texts, matched)
        return self._release(texts, all_tokens=ended)

    def _push_token(self, token_id: int, logprobs: L | None) -> tuple[str, str | None]:
        """Decodes one token → (released text, stop string found)."""
        begin = self._num_decoded
        self._offsets.append(begin)
        text = self._detokenizer.push(token_id)
        self._num_decoded += len(text)
        self.num_tokens += 1
        if logprobs is not None:
            end = self._num_decoded + self._detokenizer.is_mid_character
            self._held.append(_HeldToken(logprobs, begin, end))
        return self._stop.push(text, is_active=self.num_tokens > self._min_tokens)

    def _release(self, texts: list[str], *, all_tokens: bool) -> TextDelta[L]:
        self._add(texts)
        released: list[PlacedLogprobs[L]] = []
        while self._held and (all_tokens or self._held[0].end <= self._num_released):
            token = self._held.popleft()
            released.append(PlacedLogprobs(token.logprobs, token.begin))
        limit = self._held[0].begin if self._held else self._num_released
        return TextDelta(self._show(limit), tuple(released), None)

    def _add(self, texts: list[str]) -> None:
        text = "".join(texts)
        self._num_released += len(text)
        self._waiting += text

    def _show(self, limit: int) -> str:
        """What waits in front of a place in the text."""
        length = max(limit - self._num_shown, 0)
        text, self._waiting = self._waiting[:length], self._waiting[length:]
        self._num_shown += len(text)
        return text

    def _cut(self, texts: list[str], stop_string: str) -> TextDelta[L]:
        """Ends the output before a stop string; a token that reaches into it still counts."""
        self._add(texts)
        released = tuple(
            PlacedLogprobs(token.logprobs, token.begin)
            for token in self._held
            if token.begin < self._num_released
        )
        self._held.clear()
        return TextDelta(self._show(self._num_released), released, stop_string)
