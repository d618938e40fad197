"""What an ASGI app receives: messages given back, and waiting for the client to leave."""

import asyncio
from collections.abc import Coroutine, MutableSequence
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive

T = TypeVar("T")


def body_message(body: bytes) -> Message:
    """A whole body in one message."""
    return {"type": "http.request", "body": body, "more_body": False}


def replayed(messages: MutableSequence[Message], receive: Receive) -> Receive:
    """A `receive` that gives `messages` first (and removes them), then what really comes."""

    async def receive_again() -> Message:
        return messages.pop(0) if messages else await receive()

    return receive_again


async def disconnected(receive: Receive, seen: MutableSequence[Message]) -> None:
    """Returns when the client is gone. Other messages are kept in `seen`, for `replayed`."""
    while (message := await receive())["type"] != "http.disconnect":
        seen.append(message)


async def unless_disconnected(http_request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Runs `work`, but cancels it as soon as the client goes away.

    Raises:
        ClientDisconnect: it did.
    """
    task = asyncio.create_task(work)
    # The body has been read, so no other message is lost.
    watch = asyncio.create_task(disconnected(http_request.receive, []))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        task.cancel()
        watch.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)
