"""Items of a response while they are being written, and the events of that."""

from collections.abc import Iterator, Sequence
from itertools import count

from server.api.generation.schema.common import TokenLogprob
from server.api.responses.items import new_id
from server.api.responses.schema.events import (
    ArgumentsDelta,
    ArgumentsDone,
    Event,
    EventLogprob,
    EventTopLogprob,
    ItemEvent,
    PartEvent,
    ReasoningTextDelta,
    ReasoningTextDone,
    TextDelta,
    TextDone,
)
from server.api.responses.schema.input import ItemStatus
from server.api.responses.schema.items import (
    FunctionCall,
    OutputMessage,
    OutputTextContent,
    ReasoningItem,
    ReasoningTextContent,
)


class OpenText:
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


class OpenThinking:
    """What the model thinks before it answers, as it is being written."""

    def __init__(self, output_index: int) -> None:
        self._id = new_id("rs")
        self._index = output_index
        self._texts: list[str] = []

    def item(self, status: ItemStatus) -> ReasoningItem:
        return ReasoningItem(id=self._id, summary=[], content=[self._part()], status=status)

    def begin(self, numbers: "count[int]") -> Iterator[Event]:
        yield ItemEvent(
            type="response.output_item.added",
            sequence_number=next(numbers),
            output_index=self._index,
            item=ReasoningItem(id=self._id, summary=[], content=[], status="in_progress"),
        )
        yield PartEvent(
            type="response.content_part.added",
            sequence_number=next(numbers),
            item_id=self._id,
            output_index=self._index,
            part=ReasoningTextContent(text=""),
        )

    def add(self, text: str, number: int) -> Event:
        self._texts.append(text)
        return ReasoningTextDelta(
            sequence_number=number, item_id=self._id, output_index=self._index, delta=text
        )

    def end(self, numbers: "count[int]") -> Iterator[Event]:
        part = self._part()
        yield ReasoningTextDone(
            sequence_number=next(numbers),
            item_id=self._id,
            output_index=self._index,
            text=part.text,
        )
        yield PartEvent(
            type="response.content_part.done",
            sequence_number=next(numbers),
            item_id=self._id,
            output_index=self._index,
            part=part,
        )

    def _part(self) -> ReasoningTextContent:
        return ReasoningTextContent(text="".join(self._texts))


class OpenCall:
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
