"""Bodies longer than allowed, however they come."""

import asyncio
import gzip
import json
from collections.abc import AsyncGenerator
from dataclasses import replace

import httpx
import pytest

from tests.api.harness import (
    CHAT,
    MIDDLEWARE,
    assert_error,
    chat_body,
    in_process,
    live_app,
    make_app,
)
from tests.doubles import ScriptedEngine, one_by_one

JSON = {"content-type": "application/json"}
BODY = json.dumps(chat_body()).encode()
EXACT = replace(MIDDLEWARE, max_body_size=len(BODY))
SHORTER = replace(MIDDLEWARE, max_body_size=len(BODY) - 1)


async def in_chunks(content: bytes, size: int = 7) -> AsyncGenerator[bytes, None]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


@pytest.mark.parametrize("chunked", [False, True])
async def test_exactly_the_limit_passes(chunked: bool) -> None:
    app = make_app(ScriptedEngine(one_by_one("a")), middleware=EXACT)
    async with live_app(app) as url, httpx.AsyncClient(base_url=url) as client:
        content = in_chunks(BODY) if chunked else BODY
        response = await client.post(CHAT, content=content, headers=JSON)
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("path", [CHAT, "/no/such/path"])
async def test_one_byte_more_is_refused(chunked: bool, path: str) -> None:
    engine = ScriptedEngine(one_by_one("a"))
    app = make_app(engine, middleware=SHORTER)
    async with live_app(app) as url, httpx.AsyncClient(base_url=url) as client:
        content = in_chunks(BODY) if chunked else BODY
        response = await client.post(path, content=content, headers=JSON)
        error = assert_error(response, 413, "request_too_large")
        assert str(len(BODY) - 1) in error["message"]
        assert response.headers["x-request-id"]
        # The connection is still good.
        assert (await client.get("/health")).status_code == 200
    assert engine.requests == []


async def test_an_endless_body_is_refused_before_it_ends() -> None:
    sent = 0

    async def endless() -> AsyncGenerator[bytes, None]:
        nonlocal sent
        while True:
            sent += 100
            yield b" " * 100

    async with in_process(make_app(ScriptedEngine([]), middleware=SHORTER)) as client:
        assert_error(await client.post(CHAT, content=endless()), 413, "request_too_large")
    assert sent <= len(BODY) + 100


@pytest.mark.parametrize("length", ["-1", "x", "9" * 5000, "²"])
async def test_a_senseless_length_is_not_believed(length: str) -> None:
    """HTTP servers refuse those; if one doesn't, what comes is counted."""
    async with in_process(make_app(ScriptedEngine([]), middleware=SHORTER)) as client:
        request = client.build_request("POST", CHAT, content=in_chunks(BODY))
        request.headers = httpx.Headers([(b"content-length", length.encode("latin-1"))])
        assert_error(await client.send(request), 413, "request_too_large")


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd", "deflate", "gzip, identity", "GZIP"])
async def test_a_compressed_body_is_refused(encoding: str) -> None:
    engine = ScriptedEngine([])
    async with in_process(make_app(engine)) as client:
        headers = {**JSON, "content-encoding": encoding}
        response = await client.post(CHAT, content=gzip.compress(BODY), headers=headers)
    error = assert_error(response, 415, "unsupported_media_type")
    assert encoding.lower() in error["message"]
    assert response.headers["accept-encoding"] == "identity"
    assert engine.requests == []


@pytest.mark.parametrize("encoding", ["", "identity"])
async def test_a_body_that_says_it_is_not_compressed(encoding: str) -> None:
    headers = {**JSON, "content-encoding": encoding}
    async with in_process(make_app(ScriptedEngine(one_by_one("a")))) as client:
        assert (await client.post(CHAT, content=BODY, headers=headers)).status_code == 200


async def test_a_client_that_asks_first_sends_nothing() -> None:
    """curl does so with long bodies: `Expect: 100-continue`."""
    async with live_app(make_app(ScriptedEngine([]), middleware=SHORTER)) as url:
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999\r\n"
        writer.write(f"{head}expect: 100-continue\r\n\r\n".encode())
        answer = await asyncio.wait_for(reader.readline(), 60)
        writer.close()
    assert answer.startswith(b"HTTP/1.1 413")


async def test_a_client_that_leaves_in_the_middle_of_its_body() -> None:
    engine = ScriptedEngine([])
    async with live_app(make_app(engine)) as url, httpx.AsyncClient(base_url=url) as client:
        host, port = url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: 50\r\n\r\n{{".encode())
        await writer.drain()
        writer.close()
        counted = f'http_requests_total{{route="{CHAT}",status="499"}} 1.0'
        async with asyncio.timeout(60):
            while counted not in (await client.get("/metrics")).text:
                await asyncio.sleep(0.01)
