"""What a parser finds in an answer, in the order in which it was written."""

import uuid
from collections.abc import Iterable
from typing import Literal, NamedTuple

from server.text.tools.functions import FunctionCall


class ContentDelta(NamedTuple):
    """Text for people."""

    text: str


class ThinkingDelta(NamedTuple):
    """What the model thinks before it answers."""

    text: str


class CallStart(NamedTuple):
    """A call has begun. Its arguments follow before anything else does."""

    call_index: int
    """0 for the answer's first call."""
    call_id: str
    name: str


class ArgumentsDelta(NamedTuple):
    """More of a call's arguments."""

    call_index: int
    text: str


AnswerEvent = ThinkingDelta | ContentDelta | CallStart | ArgumentsDelta


class ContentCount(NamedTuple):
    """How much content was collected so far."""

    num_events: int
    num_characters: int


_TextKind = Literal["thinking", "content", "arguments"]


class EventSink:
    """Collects events; neighbours of one kind become one.

    Args:
        takes_content: False where there can be none: what comes as content is then dropped.
    """

    def __init__(self, *, takes_content: bool = True) -> None:
        self._takes_content = takes_content
        self._events: list[AnswerEvent] = []
        self._open: _TextKind | None = None
        """The kind of the last event, if its text may go on: it is not among the events yet."""
        self._texts: list[str] = []
        """That event's text in pieces. As one string it would be copied for each of them."""
        self.num_calls = 0
        self.num_changes = 0
        """Counts what is collected, merged or not."""
        self.content_count = ContentCount(0, 0)

    def content(self, text: str) -> None:
        if not text or not self._takes_content:
            return
        num_events, num_characters = self.content_count
        num_events += self._open != "content"
        self.content_count = ContentCount(num_events, num_characters + len(text))
        self._collect("content", text)

    def thinking(self, text: str) -> None:
        self._collect("thinking", text)

    def start_call(self, name: str) -> None:
        call_id = f"call_{uuid.uuid4().hex[:24]}"
        self._collect_whole(CallStart(self.num_calls, call_id, name))
        self.num_calls += 1

    def arguments(self, text: str) -> None:
        """Adds to the arguments of the call that was started last."""
        self._collect("arguments", text)

    def add(self, events: Iterable[AnswerEvent]) -> None:
        """Passes on what another sink collected."""
        for event in events:
            match event:
                case ContentDelta(text):
                    self.content(text)
                case ThinkingDelta(text):
                    self.thinking(text)
                case CallStart() | ArgumentsDelta():
                    self._collect_whole(event)

    def take(self) -> list[AnswerEvent]:
        """The events since the last time."""
        self._close()
        events, self._events = self._events, []
        return events

    def _collect(self, kind: _TextKind, text: str) -> None:
        if not text:
            return
        self.num_changes += 1
        if self._open != kind:
            self._close()
            self._open = kind
        self._texts.append(text)

    def _collect_whole(self, event: CallStart | ArgumentsDelta) -> None:
        self.num_changes += 1
        self._close()
        self._events.append(event)

    def _close(self) -> None:
        """Makes an event of the open text."""
        text = "".join(self._texts)
        match self._open:
            case "thinking":
                self._events.append(ThinkingDelta(text))
            case "content":
                self._events.append(ContentDelta(text))
            case "arguments":
                self._events.append(ArgumentsDelta(self.num_calls - 1, text))
            case None:
                pass
        self._open = None
        self._texts.clear()


class Answer(NamedTuple):
    content: str
    calls: list[FunctionCall]
    thinking: str = ""


def whole_answer(events: Iterable[AnswerEvent]) -> Answer:
    """What the events of an answer add up to."""
    content: list[str] = []
    thinking: list[str] = []
    starts: list[CallStart] = []
    arguments: list[list[str]] = []
    for event in events:
        match event:
            case ContentDelta(text):
                content.append(text)
            case ThinkingDelta(text):
                thinking.append(text)
            case CallStart():
                starts.append(event)
                arguments.append([])
            case ArgumentsDelta(index, text):
                arguments[index].append(text)
    calls = [
        FunctionCall(start.call_id, start.name, "".join(texts))
        for start, texts in zip(starts, arguments, strict=True)
    ]
    return Answer("".join(content), calls, "".join(thinking))
