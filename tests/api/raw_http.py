"""Sockets under a test's own hand, and a server that writes down which requests it was told of."""

import asyncio
import json
import re
import socket
import threading
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import uvicorn
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from server.api.http.connection import http_options
from tests.api.harness import CONNECTION_LIMITS, Json


class Told(NamedTuple):
    """A request as the app saw it."""

    method: str
    path: str
    body: bytes | None
    """None where the app answered without reading it."""


@dataclass(slots=True)
class RecordingApp:
    """Answers `ok` to everything, below `/unread` without reading the body."""

    told: list[Told] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reads = not scope["path"].startswith("/unread")
        try:
            body = await _body(receive) if reads else None
        except ClientDisconnect:
            return
        self.told.append(Told(scope["method"], scope["path"], body))
        headers = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok"})


async def _body(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return body


@dataclass(slots=True)
class RecordingServer:
    address: tuple[str, int]
    app: RecordingApp

    def exchange(self, pieces: Iterable[bytes]) -> tuple[list[int], list[Told]]:
        """Sends the pieces over one connection and reads until the server closes it → the answers'
        statuses, interim ones left out, and what the app was told of."""
        self.app.told.clear()
        answer = exchange(self.address, pieces)
        return statuses(answer), list(self.app.told)


@contextmanager
def recording_server() -> Generator[RecordingServer]:
    """In a thread of its own."""
    app = RecordingApp()
    options = http_options(CONNECTION_LIMITS)
    config = uvicorn.Config(app, port=0, log_level="critical", lifespan="off", **options)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=asyncio.run, args=(server.serve(),))
    thread.start()
    while not server.started:
        thread.join(0.005)
    try:
        yield RecordingServer(server.servers[0].sockets[0].getsockname(), app)
    finally:
        server.should_exit = True
        thread.join()


def exchange(address: tuple[str, int], pieces: Iterable[bytes]) -> bytes:
    """All that comes until the server closes. It may close before everything is sent."""
    with socket.create_connection(address, timeout=60) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for piece in pieces:
                client.sendall(piece)
        except ConnectionError:
            pass
        return read_all(client)


def read_all(client: socket.socket) -> bytes:
    answer = b""
    try:
        while data := client.recv(65536):
            answer += data
    except ConnectionError:
        pass  # what came before it counts
    return answer


def statuses(answer: bytes) -> list[int]:
    found = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]
    return [status for status in found if status >= 200]


def address_of(url: str) -> tuple[str, int]:
    host, port = url.removeprefix("http://").split(":")
    return host, int(port)


def refusal(answer: bytes) -> Json:
    """The error body of an answer of the connection's own."""
    head, body = answer.split(b"\r\n\r\n", 1)
    assert b"\r\ncontent-type: application/json\r\n" in head + b"\r\n"
    assert b"\r\nconnection: close" in head
    return json.loads(body)["error"]
