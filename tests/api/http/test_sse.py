import asyncio
import json
from collections.abc import AsyncGenerator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message

from server.api.http.sse import EventStream, TextEvent, event
from server.api.service.models import ModelCard


class Source:
    closed = False

    async def aclose(self) -> None:
        self.closed = True


async def no_message() -> Message:
    return await asyncio.get_running_loop().create_future()


async def broken_send(message: Message) -> None:
    raise OSError("the socket is gone")


async def one_event() -> AsyncGenerator[bytes, None]:
    yield b"data: 1\n\n"


async def test_source_is_closed_although_the_stream_never_began() -> None:
    """A generator that was not started runs no cleanup of its own."""
    source = Source()
    events = one_event()
    response = EventStream(events, source, ping_seconds=15)
    with pytest.raises(OSError, match="the socket is gone"):
        await response({"type": "http", "method": "POST"}, no_message, broken_send)
    assert source.closed
    await events.aclose()


@given(st.text())
def test_a_text_event_equals_the_whole_model_dumped(text: str) -> None:
    def card(name: str) -> ModelCard:
        return ModelCard(id=name, created=1, root="r", max_model_len=2)

    assert TextEvent(card(TextEvent.MARK))(text) == event(card(text))


def test_an_event_is_one_line_whatever_the_text() -> None:
    """No matter where a reader takes a line to end: Python's does at eight characters."""
    text = "".join(map(chr, range(0x300))) + "\u2027\u2028\u2029\u202a🙂\U000100a8"
    framed = event(ModelCard(id=text, created=1, root="r", max_model_len=2)).decode()
    assert framed.splitlines(keepends=True) == [framed[:-1], "\n"]
    assert json.loads(framed.removeprefix("data: "))["id"] == text
