"""What an ASGI app receives: messages given back, and waiting for the client to leave."""

from collections.abc import MutableSequence

from starlette.types import Message, Receive


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
