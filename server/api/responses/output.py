"""The output of a response as it grows: pieces of the answer → items and events."""

from collections.abc import Iterator, Sequence
from itertools import count

from server.api.generation.job import Piece
from server.api.generation.shape import token_logprob
from server.api.responses.open_items import OpenCall, OpenText, OpenThinking
from server.api.responses.schema.events import Event, ItemEvent
from server.api.responses.schema.input import ItemStatus
from server.api.responses.schema.items import OutputItem
from server.engine.outputs import TokenLogprobs
from server.text.stream import PlacedLogprobs
from server.text.tokenizer import Tokenizer
from server.text.tools import events


class ResponseOutput:
    """Items of one response, the last of which may be open. Thinking, text and each call of a
    function are items of their own, in the order in which the model wrote them; no text at all is
    an empty one, where there might have been a text.

    Logprobs belong to text: those of tokens that thinking, a call or markup is made of are left
    out.

    Args:
        numbers: Sequence numbers of the stream's events.
        only_calls: The request leaves no room for text.
    """

    def __init__(
        self, tokenizer: Tokenizer, numbers: "count[int]", *, only_calls: bool = False
    ) -> None:
        self._tokenizer = tokenizer
        self._only_calls = only_calls
        self._numbers = numbers
        self._closed: list[OutputItem] = []
        self._open: OpenText | OpenThinking | OpenCall | None = None

    def items(self, status: ItemStatus) -> list[OutputItem]:
        """All items.

        Args:
            status: The open item's.
        """
        opened = [] if self._open is None else [self._open.item(status)]
        return [*self._closed, *opened]

    def add(self, piece: Piece) -> Iterator[Event]:
        if piece.events is None:
            if piece.text or piece.logprobs:
                yield from self._add_text(piece.text, piece.logprobs)
            return
        for event, logprobs in zip(piece.events, piece.event_logprobs, strict=True):
            match event:
                case events.ContentDelta(text):
                    yield from self._add_text(text, logprobs)
                case events.ThinkingDelta(text):
                    yield from self._add_thinking(text)
                case events.CallStart(_, call_id, name):
                    yield from self._start_call(call_id, name)
                case events.ArgumentsDelta(_, text):
                    yield from self._add_arguments(text)

    def finish(self, status: ItemStatus) -> Iterator[Event]:
        """Closes the last item, and opens one before if there is none."""
        thought = isinstance(self._open, OpenThinking) and status == "completed"
        if not self._only_calls and (self._open is None or thought):
            yield from self._add_text("")
        yield from self._close(status)

    def _add_text(
        self, text: str, logprobs: Sequence[PlacedLogprobs[TokenLogprobs]] = ()
    ) -> Iterator[Event]:
        if not isinstance(self._open, OpenText):
            yield from self._close("completed")
            self._open = OpenText(len(self._closed))
            yield from self._open.begin(self._numbers)
        if text or logprobs:
            shown = [token_logprob(self._tokenizer, each.logprobs) for each in logprobs]
            yield self._open.add(text, shown, next(self._numbers))

    def _add_thinking(self, text: str) -> Iterator[Event]:
        if not isinstance(self._open, OpenThinking):
            yield from self._close("completed")
            self._open = OpenThinking(len(self._closed))
            yield from self._open.begin(self._numbers)
        yield self._open.add(text, next(self._numbers))

    def _start_call(self, call_id: str, name: str) -> Iterator[Event]:
        yield from self._close("completed")
        self._open = OpenCall(len(self._closed), call_id, name)
        yield self._open.begin(next(self._numbers))

    def _add_arguments(self, text: str) -> Iterator[Event]:
        if isinstance(self._open, OpenCall):
            yield self._open.add(text, next(self._numbers))

    def _close(self, status: ItemStatus) -> Iterator[Event]:
        if self._open is None:
            return
        item = self._open.item(status)
        yield from self._open.end(self._numbers)
        yield ItemEvent(
            type="response.output_item.done",
            sequence_number=next(self._numbers),
            output_index=len(self._closed),
            item=item,
        )
        self._closed.append(item)
        self._open = None
