"""What one client can hold open: each limit, and that others are answered beside it."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, cast

import httpx
import pytest
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from server.api.http.limits import ConnectionLimits, connection_limits
from server.api.http.receiving import disconnected
from server.config import ServerSettings, load_settings
from tests.api.harness import CHAT, CONNECTION_LIMITS, chat_body, live_app, make_app
from tests.api.raw_http import address_of, exchange, read_all, refusal, statuses
from tests.doubles import ScriptedEngine, one_by_one

Address = tuple[str, int]
GET = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"
BODY = json.dumps(chat_body(stream=True)).encode()
POST = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n".encode()
WHOLE_POST = POST + b"content-length: %d\r\n\r\n%b" % (len(BODY), BODY)


class EndlessApp:
    """Sends until the client has left."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        left = asyncio.create_task(disconnected(receive, []))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not left.done():
            await send({"type": "http.response.body", "body": b"a" * 65536, "more_body": True})
            await asyncio.sleep(0)
        self.ended.set()


@asynccontextmanager
async def limited(
    engine: ScriptedEngine | None = None, **limits: Any
) -> AsyncGenerator[tuple[Address, httpx.AsyncClient]]:
    """A server with other limits than the default ones, and a client that it must not mind."""
    app = make_app(engine or ScriptedEngine(one_by_one("a")))
    async with live_app(app, replace(CONNECTION_LIMITS, **limits)) as url:
        async with httpx.AsyncClient(base_url=url) as client:
            yield address_of(url), client
            assert (await client.get("/health")).status_code == 200


async def sent(address: Address, *pieces: bytes) -> bytes:
    return await asyncio.to_thread(exchange, address, pieces)


def opened(address: Address, data: bytes = b"") -> socket.socket:
    client = socket.create_connection(address, timeout=60)
    client.sendall(data)
    return client


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"x: " + b"a" * 10_000_000, 431),
        (b"x: a\r\n" * 1_000_000, 431),
        (b"x: a\r\n" * 129 + b"\r\n", 431),
        (b"x: a\r\n" * 20_000 + b"\r\n", 431),
    ],
)
async def test_long_heads_are_not_read(head: bytes, status: int) -> None:
    async with limited() as (address, _):
        answer = await sent(address, b"GET /health HTTP/1.1\r\nhost: x\r\n" + head)
    assert statuses(answer) in ([status], [])  # the client may have been cut off while sending
    if answer:
        assert refusal(answer)["type"] == "invalid_request_error"


async def test_a_long_request_line() -> None:
    async with limited() as (address, _):
        answer = await sent(address, b"GET /" + b"a" * 100_000)
    assert statuses(answer) == [431]


async def test_a_head_of_the_longest_length_passes() -> None:
    cookies = b"cookie: " + b"a" * 30_000 + b"\r\nconnection: close\r\n"
    async with limited() as (address, _):
        answer = await sent(address, GET[:-2] + cookies + b"\r\n")
    assert statuses(answer) == [200]


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (b"", None),
        (b"GET /health HT", 408),
        (GET[:-2], 408),
        (GET + GET[:-2], 408),
        (GET + GET, None),
    ],
)
async def test_a_head_that_does_not_come(given: bytes, status: int | None) -> None:
    async with limited(head_seconds=1, keep_alive_seconds=2) as (address, _):
        answer = await sent(address, given)
    answered = [200] * given.count(GET)
    assert statuses(answer) == (answered if status is None else [*answered, status])


async def test_a_head_that_comes_in_drops() -> None:
    async with limited(head_seconds=0.3) as (address, _):
        client = opened(address)
        with pytest.raises(ConnectionError):
            for byte in GET[:-2] + b"x: " + b"y" * 1000:
                client.send(bytes([byte]))
                await asyncio.sleep(0.05)
        assert statuses(await asyncio.to_thread(read_all, client)) in ([408], [])
        client.close()


@pytest.mark.parametrize("framing", [b"content-length: 500", b"transfer-encoding: chunked"])
async def test_a_body_that_does_not_come(framing: bytes) -> None:
    engine = ScriptedEngine([])
    async with limited(engine, body_seconds=1) as (address, client):
        answer = await sent(address, POST + framing + b"\r\n\r\n")
        assert statuses(answer) == [408]
        assert "in time" in refusal(answer)["message"]
        counted = f'http_requests_total{{route="{CHAT}",status="499"}} 1.0'
        assert counted in (await client.get("/metrics")).text
    assert engine.requests == []


async def test_a_refused_body_without_end() -> None:
    """The answer has long been sent, and the rest is read only for so long."""
    head = b"POST /health HTTP/1.1\r\nhost: x\r\ncontent-length: 9000000000\r\n\r\n"
    async with limited(body_seconds=0.5) as (address, _):
        client = opened(address, head)
        with pytest.raises(ConnectionError):
            for _ in range(1000):
                client.send(b" ")
                await asyncio.sleep(0.02)
        client.close()


async def test_tiny_chunks() -> None:
    """Each costs as much as hundreds of bytes."""
    head, chunks = POST + b"transfer-encoding: chunked\r\n\r\n", b"1\r\n \r\n" * 100_000
    async with limited() as (address, client):
        attack = asyncio.create_task(sent(address, head, chunks))
        while not attack.done():
            assert (await client.get("/health")).status_code == 200
        answer = await attack
    assert statuses(answer) in ([413], [])


async def test_small_chunks_pass() -> None:
    """A client may send its JSON piece by piece."""
    body = json.dumps(chat_body()).encode().ljust(10_000)
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    head = POST + b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n"
    async with limited() as (address, _):
        assert statuses(await sent(address, head, chunks)) == [200]


async def test_a_reader_that_never_reads() -> None:
    app = EndlessApp()
    limits = replace(CONNECTION_LIMITS, send_seconds=0.3)
    async with live_app(cast("FastAPI", app), limits) as url:
        client = opened(address_of(url), GET)
        async with asyncio.timeout(60):
            await app.ended.wait()
        client.close()


async def test_a_reader_that_is_slow_gets_all() -> None:
    """Longer than `send_seconds`, because something is read all the time."""
    engine = ScriptedEngine([])
    async with limited(engine, send_seconds=1.5) as (address, _):
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(address)
        client.sendall(b"GET /openapi.json HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        client.setblocking(False)
        answer = b""
        started = time.monotonic()
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(client, 2048):
            answer += data
            await asyncio.sleep(0.05)  # some 70 times
        client.close()
        head, body = answer.split(b"\r\n\r\n", 1)
        assert b"content-length: %d" % len(body) in head
        assert time.monotonic() - started > 1.5, "the answer is too short for this test"


async def test_idle_connections_give_way() -> None:
    async with limited(max_connections=3) as (address, client):
        idle = [opened(address), opened(address, GET[:9]), opened(address, POST + b"x: y\r\n")]
        await asyncio.sleep(0.05)
        assert (await client.get("/health")).status_code == 200
        assert await asyncio.to_thread(idle[0].recv, 1) == b""
        for other in idle:
            other.close()


async def test_requests_that_are_answered_do_not_give_way() -> None:
    engine = ScriptedEngine(one_by_one("ab"), hang_after=1)
    limits = replace(CONNECTION_LIMITS, max_connections=2)
    async with live_app(make_app(engine), limits) as url:
        address = address_of(url)
        busy = [opened(address, WHOLE_POST) for _ in range(2)]
        while engine.num_open < 2:
            await asyncio.sleep(0.01)
        answer = await sent(address, GET)
        assert statuses(answer) == [503]
        assert refusal(answer)["type"] == "server_error"
        engine.let_go.set()
        for client in busy:
            answer = b""
            while b"[DONE]" not in answer:
                answer += await asyncio.to_thread(client.recv, 65536)
            client.close()


async def test_a_limit_per_client() -> None:
    async with limited(max_per_client=2) as (address, _):
        first, second = opened(address), opened(address)
        third = opened(address, GET)
        assert await asyncio.to_thread(first.recv, 1) == b""
        assert (await asyncio.to_thread(third.recv, 12)).endswith(b"200")
        for client in (first, second, third):
            client.close()


def test_limits_come_from_the_settings() -> None:
    settings = load_settings(
        ServerSettings,
        max_connections="50",
        max_connections_per_client="5",
        max_head_size="8K",
        head_seconds="1",
        body_seconds="2",
        keep_alive_seconds="3",
        send_seconds="4",
    )
    assert connection_limits(settings, 1000) == ConnectionLimits(50, 5, 8192, 1, 2, 3, 4)


def test_connections_leave_files_for_others() -> None:
    settings = load_settings(ServerSettings)
    assert connection_limits(settings, 1024).max_connections == 768
    assert connection_limits(settings, 10).max_connections == 1
    assert connection_limits(settings, 10**6).max_connections == 4096
