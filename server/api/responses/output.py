"""The output of a response as it grows: pieces of the answer → items and events."""

from collections.abc import Iterator, Sequence
from itertools import count

from server.api.generation.job import Progress
from server.api.generation.schema.common import TokenLogprob
from server.api.generation.shape import token_logprob
from server.api.responses.items import new_id
from server.api.responses.schema.events import (
    ArgumentsDelta,
    ArgumentsDone,
    Event,
    EventLogprob,
    EventTopLogprob,
    ItemEvent,
    PartEvent,
    TextDelta,
    TextDone,
)
from server.api.responses.schema.input import ItemStatus
from server.api.responses.schema.items import (
    FunctionCall,
    OutputItem,
    OutputMessage,
    OutputTextContent,
)
from server.text.tokenizer import Tokenizer
from server.text.tools import events


class ResponseOutput:
    """Items of one response, the last of which may be open. Text and each call of a function are
    items of their own, in the order in which the model wrote them; no text at all is an empty one,
    where there might have been a text.

    Logprobs belong to text: those of tokens that a call is made of are left out.

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
        self._open: _Text | _Call | None = None
        self._held: list[TokenLogprob] = []
        """Logprobs of tokens that show no text so far: what they belong to is not known yet."""

    def items(self, status: ItemStatus) -> list[OutputItem]:
        """All items.

        Args:
            status: The open item's.
        """
        opened = [] if self._open is None else [self._open.item(status)]
        return [*self._closed, *opened]

    def add(self, piece: Progress) -> Iterator[Event]:
        self._held += [token_logprob(self._tokenizer, each.logprobs) for each in piece.logprobs]
        if piece.events is None:
            if piece.text or self._held:
                yield from self._add_text(piece.text)
            return
        for event in piece.events:
            match event:
                case events.ContentDelta(text):
                    yield from self._add_text(text)
                case events.CallStart(_, call_id, name):
                    yield from self._start_call(call_id, name)
                case events.ArgumentsDelta(_, text):
                    yield from self._add_arguments(text)

    def finish(self, status: ItemStatus) -> Iterator[Event]:
        """Closes the last item, and opens one before if there is none."""
        if self._only_calls:
            self._held = []
        elif self._open is None or (self._held and isinstance(self._open, _Text)):
            yield from self._add_text("")
        yield from self._close(status)

    def _add_text(self, text: str) -> Iterator[Event]:
        if not isinstance(self._open, _Text):
            yield from self._close("completed")
            self._open = _Text(len(self._closed))
            yield from self._open.begin(self._numbers)
        logprobs, self._held = self._held, []
        if text or logprobs:
            yield self._open.add(text, logprobs, next(self._numbers))

    def _start_call(self, call_id: str, name: str) -> Iterator[Event]:
        yield from self._close("completed")
        self._held = []
        self._open = _Call(len(self._closed), call_id, name)
        yield self._open.begin(next(self._numbers))

    def _add_arguments(self, text: str) -> Iterator[Event]:
        self._held = []
        if isinstance(self._open, _Call):
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


class _Text:
    """A message with one part, that is being written."""

    def __init__(self, output_index: int) -> None:
        self._id = new_id("msg")
        self._index = output_index
        self._texts: list[str] = []
        self._logprobs: list[TokenLogprob] = []

    def item(self, status: ItemStatus) -> OutputMessage:
        return OutputMessage(id=self._id, status=status, content=[self._part()])

    def begin(self, numbers: "count[int]") -> Iterator[Event]:
        yield ItemEvent(
            type="response.output_item.added",
            sequence_number=next(numbers),
            output_index=self._index,
            item=OutputMessage(id=self._id, status="in_progress", content=[]),
        )
        yield PartEvent(
            type="response.content_part.added",
            sequence_number=next(numbers),
            item_id=self._id,
            output_index=self._index,
            part=OutputTextContent(text=""),
        )

    def add(self, text: str, logprobs: list[TokenLogprob], number: int) -> Event:
        self._texts.append(text)
        self._logprobs += logprobs
        return TextDelta(
            sequence_number=number,
            item_id=self._id,
            output_index=self._index,
            delta=text,
            logprobs=_without_bytes(logprobs),
        )

    def end(self, numbers: "count[int]") -> Iterator[Event]:
        part = self._part()
        yield TextDone(
            sequence_number=next(numbers),
            item_id=self._id,
            output_index=self._index,
            text=part.text,
            logprobs=_without_bytes(part.logprobs),
        )
        yield PartEvent(
            type="response.content_part.done",
            sequence_number=next(numbers),
            item_id=self._id,
            output_index=self._index,
            part=part,
        )

    def _part(self) -> OutputTextContent:
        return OutputTextContent(text="".join(self._texts), logprobs=list(self._logprobs))


class _Call:
    """A call of a function that is being written."""

    def __init__(self, output_index: int, call_id: str, name: str) -> None:
        self._id = new_id("fc")
        self._index = output_index
        self._call_id = call_id
        self._name = name
        self._arguments: list[str] = []

    def item(self, status: ItemStatus) -> FunctionCall:
        return FunctionCall(
            id=self._id,
            call_id=self._call_id,
            name=self._name,
            arguments="".join(self._arguments),
            status=status,
        )

    def begin(self, number: int) -> Event:
        return ItemEvent(
            type="response.output_item.added",
            sequence_number=number,
            output_index=self._index,
            item=self.item("in_progress"),
        )

    def add(self, text: str, number: int) -> Event:
        self._arguments.append(text)
        return ArgumentsDelta(
            sequence_number=number, item_id=self._id, output_index=self._index, delta=text
        )

    def end(self, numbers: "count[int]") -> Iterator[Event]:
        yield ArgumentsDone(
            sequence_number=next(numbers),
            item_id=self._id,
            output_index=self._index,
            name=self._name,
            arguments="".join(self._arguments),
        )


def _without_bytes(logprobs: Sequence[TokenLogprob]) -> list[EventLogprob]:
    return [
        EventLogprob(
            token=entry.token,
            logprob=entry.logprob,
            top_logprobs=[
                EventTopLogprob(token=top.token, logprob=top.logprob) for top in entry.top_logprobs
            ],
        )
        for entry in logprobs
    ]
