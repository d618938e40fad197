"""The content of a message as it grows: pieces of the answer → blocks and events."""

from collections.abc import Iterator

from server.api.generation.job import Piece
from server.api.messages.open_blocks import OpenCall, OpenText, OpenThinking
from server.api.messages.schema.answer import ContentBlock
from server.api.messages.schema.events import BlockDelta, BlockStart, BlockStop
from server.api.messages.schema.request import ThoughtsShown
from server.text.tools import events

BlockEvent = BlockStart | BlockDelta | BlockStop


class MessageContent:
    """Blocks of one message, the last of which may be open. Thoughts, text and each call are blocks
    of their own, in the order in which the model wrote them.

    Args:
        has_text: There is a text, were it an empty one.
        thoughts_shown: What it has of the thoughts.
    """

    def __init__(self, *, has_text: bool = True, thoughts_shown: ThoughtsShown = "whole") -> None:
        self._has_text = has_text
        self._thoughts_shown: ThoughtsShown = thoughts_shown
        self._blocks: list[OpenText | OpenThinking | OpenCall] = []
        self._is_open = False

    def blocks(self) -> list[ContentBlock]:
        """All blocks, once the content is finished."""
        return [block.whole() for block in self._blocks]

    def add(self, piece: Piece) -> Iterator[BlockEvent]:
        if piece.events is None:
            yield from self._add_text(piece.text)
            return
        for event in piece.events:
            match event:
                case events.ContentDelta(text):
                    yield from self._add_text(text)
                case events.ThinkingDelta(text):
                    yield from self._add_thinking(text)
                case events.CallStart(_, call_id, name):
                    yield from self._start(OpenCall(call_id, name))
                case events.ArgumentsDelta(_, text):
                    yield from self._add(text)

    def finish(self) -> Iterator[BlockEvent]:
        """Closes the last block, after an empty text if nothing but thoughts is there."""
        if self._has_text and all(isinstance(block, OpenThinking) for block in self._blocks):
            yield from self._start(OpenText())
        yield from self._close()

    def _add_text(self, text: str) -> Iterator[BlockEvent]:
        if text:
            if not self._is_open or not isinstance(self._blocks[-1], OpenText):
                yield from self._start(OpenText())
            yield from self._add(text)

    def _add_thinking(self, text: str) -> Iterator[BlockEvent]:
        if self._thoughts_shown == "not_at_all":
            return  # such clients take the first block for the text
        if not self._is_open or not isinstance(self._blocks[-1], OpenThinking):
            yield from self._start(OpenThinking(is_shown=self._thoughts_shown == "whole"))
        yield from self._add(text)

    def _start(self, block: OpenText | OpenThinking | OpenCall) -> Iterator[BlockEvent]:
        yield from self._close()
        self._blocks.append(block)
        self._is_open = True
        yield BlockStart(index=len(self._blocks) - 1, content_block=block.first())

    def _add(self, text: str) -> Iterator[BlockEvent]:
        delta = self._blocks[-1].add(text)
        if delta is not None:
            yield BlockDelta(index=len(self._blocks) - 1, delta=delta)

    def _close(self) -> Iterator[BlockEvent]:
        if not self._is_open:
            return
        self._is_open = False
        index = len(self._blocks) - 1
        delta = self._blocks[-1].last()
        if delta is not None:
            yield BlockDelta(index=index, delta=delta)
        yield BlockStop(index=index)
