"""The content of a message as it grows: pieces of the answer → blocks and events."""

from collections.abc import Iterator
from typing import Any

from pydantic_core import from_json

from server.api.generation.job import Progress
from server.api.messages.schema.answer import AnswerText, AnswerToolUse, ContentBlock
from server.api.messages.schema.events import (
    BlockDelta,
    BlockStart,
    BlockStop,
    InputBlockDelta,
    TextBlockDelta,
)
from server.text.tools import events

BlockEvent = BlockStart | BlockDelta | BlockStop


class MessageContent:
    """Blocks of one message, the last of which may be open. Text and each call are blocks of their
    own, in the order in which the model wrote them; no text at all is an empty one, where there
    might have been a text.

    Args:
        only_calls: The request leaves no room for text.
    """

    def __init__(self, *, only_calls: bool = False) -> None:
        self._only_calls = only_calls
        self._blocks: list[_Text | _Call] = []
        self._is_open = False

    def blocks(self) -> list[ContentBlock]:
        """All blocks, once the content is finished."""
        return [block.whole() for block in self._blocks]

    def add(self, piece: Progress) -> Iterator[BlockEvent]:
        if piece.events is None:
            yield from self._add_text(piece.text)
            return
        for event in piece.events:
            match event:
                case events.ContentDelta(text):
                    yield from self._add_text(text)
                case events.CallStart(_, call_id, name):
                    yield from self._start(_Call(call_id, name))
                case events.ArgumentsDelta(_, text):
                    yield self._delta(text)

    def finish(self) -> Iterator[BlockEvent]:
        """Closes the last block, and opens one before if there is none."""
        if not self._blocks and not self._only_calls:
            yield from self._start(_Text())
        yield from self._close()

    def _add_text(self, text: str) -> Iterator[BlockEvent]:
        if not text:
            return
        if not self._is_open or not isinstance(self._blocks[-1], _Text):
            yield from self._start(_Text())
        yield self._delta(text)

    def _start(self, block: "_Text | _Call") -> Iterator[BlockEvent]:
        yield from self._close()
        self._blocks.append(block)
        self._is_open = True
        yield BlockStart(index=len(self._blocks) - 1, content_block=block.first())

    def _delta(self, text: str) -> BlockDelta:
        block = self._blocks[-1]
        block.texts.append(text)
        return BlockDelta(index=len(self._blocks) - 1, delta=block.delta(text))

    def _close(self) -> Iterator[BlockEvent]:
        if self._is_open:
            self._is_open = False
            yield BlockStop(index=len(self._blocks) - 1)


class _Text:
    def __init__(self) -> None:
        self.texts: list[str] = []

    def first(self) -> AnswerText:
        return AnswerText(text="")

    def delta(self, text: str) -> TextBlockDelta:
        return TextBlockDelta(text=text)

    def whole(self) -> AnswerText:
        return AnswerText(text="".join(self.texts))


class _Call:
    def __init__(self, call_id: str, name: str) -> None:
        self._id = f"toolu_{call_id.removeprefix('call_')}"
        self._name = name
        self.texts: list[str] = []

    def first(self) -> AnswerToolUse:
        return AnswerToolUse(id=self._id, name=self._name, input={})

    def delta(self, text: str) -> InputBlockDelta:
        return InputBlockDelta(partial_json=text)

    def whole(self) -> AnswerToolUse:
        return AnswerToolUse(id=self._id, name=self._name, input=_input("".join(self.texts)))


def _input(text: str) -> dict[str, Any]:
    """A call's arguments as an object. Of those that were cut short it has what is complete, like
    that of Anthropic's clients for streams; what is no JSON object stands in it as text."""
    try:
        value = from_json(text or "{}", allow_inf_nan=False, allow_partial=True)
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {"INVALID_JSON": text}
