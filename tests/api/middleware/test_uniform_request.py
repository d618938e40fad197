"""Forms of requests that mean the same: HEAD and GET, slashes, old and new HTTP."""

import json
import re
from asyncio import to_thread

import pytest
from fastapi import FastAPI

from server.api.middleware.uniform_request import uniform_path
from tests.api.harness import CHAT, COMPLETIONS, MODEL, chat_body, in_process, live_app
from tests.api.harness import make_app as make
from tests.api.raw_http import address_of, exchange
from tests.doubles import ScriptedEngine, one_by_one

RESPONSES = "/v1/responses"


def gets(app: FastAPI) -> list[str]:
    """A path of each GET that the API's document has, and of the pages, which it has not."""
    paths = [path for path, operations in app.openapi()["paths"].items() if "get" in operations]
    named = [path.replace("{model_id}", MODEL) for path in paths]
    return [*named, "/", "/docs", "/openapi.json", "/static/app/main.js"]


PATHS = gets(make(ScriptedEngine([])))


def test_there_are_gets() -> None:
    assert {"/health", "/metrics", "/v1/models", f"/v1/models/{MODEL}"} <= set(PATHS)


@pytest.mark.parametrize("path", [*PATHS, "/none"])
async def test_head_is_get_without_the_body(path: str) -> None:
    headers = {"x-request-id": "one"}
    async with in_process(make(ScriptedEngine([]))) as client:
        whole, head = [
            await client.request(method, path, headers=headers) for method in ("GET", "HEAD")
        ]
    assert head.status_code == whole.status_code
    assert whole.content
    assert head.content == b""
    if path != "/metrics":  # which counts the first of both
        assert head.headers == whole.headers


async def test_head_over_a_connection() -> None:
    head = b"HEAD /health HTTP/1.1\r\nhost: x\r\n"
    async with live_app(make(ScriptedEngine([]))) as url:
        raw = [head + b"\r\n", head + b"connection: close\r\n\r\n"]
        answer = await to_thread(exchange, address_of(url), raw)
    parts = answer.split(b"\r\n\r\n")
    assert [part[:12] for part in parts] == [b"HTTP/1.1 200"] * 2 + [b""]
    assert b"content-length: 15" in parts[0]


async def test_methods_that_a_path_has() -> None:
    async with in_process(make(ScriptedEngine([]))) as client:
        assert (await client.post("/health")).headers["allow"] == "GET, HEAD"
        assert (await client.head(CHAT)).headers["allow"] == "POST"
        assert (await client.head(CHAT)).status_code == 405


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("/", "/"),
        ("//", "/"),
        ("/v1/models/", "/v1/models"),
        ("//v1//models//", "/v1/models"),
        ("/v1/models/a/b", "/v1/models/a/b"),
        ("http://host:80/v1/models", "/v1/models"),
        ("http://host", "/"),
        ("*", "*"),
        ("host:443", "host:443"),
        ("", "/"),
    ],
)
def test_paths(given: str, path: str) -> None:
    assert uniform_path(given) == path


@pytest.mark.parametrize("path", ["/v1/models/", "/v1//models", "//v1/models///"])
async def test_the_list_of_models(path: str) -> None:
    async with in_process(make(ScriptedEngine([]))) as client:
        response = await client.get(f"http://test{path}")
    assert response.json()["data"][0]["id"] == MODEL


async def test_a_doubled_slash_of_a_base_url() -> None:
    async with in_process(make(ScriptedEngine(one_by_one("a")))) as client:
        response = await client.post("http://test/v1//chat/completions/", json=chat_body())
    assert response.status_code == 200


TEXT = "a\u2028b\u2029c\x85d\x0be\x1cf\r\ng\u2027\u202ah"


def request_of(path: str, version: str, *headers: str) -> bytes:
    fields = {CHAT: chat_body(), COMPLETIONS: {"prompt": "a"}, RESPONSES: {"input": "a"}}[path]
    body = json.dumps({**fields, "stream": True})
    lines = [
        f"POST {path} HTTP/{version}",
        "host: x",
        "content-type: application/json",
        f"content-length: {len(body)}",
        *headers,
    ]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, RESPONSES])
@pytest.mark.parametrize("header", [(), ("connection: keep-alive",)])
async def test_a_stream_of_http_1_0(path: str, header: tuple[str, ...]) -> None:
    """Has no chunks, and ends with the connection."""
    async with live_app(make(ScriptedEngine(one_by_one(TEXT)))) as url:
        raw = request_of(path, "1.0", *header)
        answer = await to_thread(exchange, address_of(url), [raw])
    head, text = answer.decode().split("\r\n\r\n", 1)
    head = head.lower()
    assert "transfer-encoding" not in head
    assert re.findall("connection: (.*)", head) == ["close"]
    said(path, text)


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, RESPONSES])
async def test_a_stream_says_once_what_becomes_of_the_connection(path: str) -> None:
    async with live_app(make(ScriptedEngine(one_by_one(TEXT)))) as url:
        kept, closed = request_of(path, "1.1"), request_of(path, "1.1", "connection: close")
        answer = await to_thread(exchange, address_of(url), [kept, closed])
    heads = re.findall(r"http/1.1 200 ok\r\n.*?\r\n\r\n", answer.decode().lower(), re.DOTALL)
    first, second = heads
    assert re.findall("connection: (.*)\r", first) == []
    assert re.findall("connection: (.*)\r", second) == ["close"]


def said(path: str, text: str) -> None:
    """A reader that takes every line end of Unicode's for one sees the same events."""
    lines = [line for line in text.splitlines() if line and not line.startswith((":", "event: "))]
    assert all(line.startswith("data: ") for line in lines)
    found = [json.loads(line[6:]) for line in lines if line != "data: [DONE]"]
    if path == CHAT:
        pieces = [chunk["choices"][0]["delta"].get("content", "") for chunk in found]
    elif path == COMPLETIONS:
        pieces = [chunk["choices"][0]["text"] for chunk in found]
    else:
        pieces = [event.get("delta", "") for event in found]
    assert "".join(piece or "" for piece in pieces) == TEXT


@pytest.mark.parametrize("path", ["http://[", "http://a]/v1/models", "x://\u2100/health"])
def test_what_is_no_url_is_a_path_of_nothing(path: str) -> None:
    assert uniform_path(path) == path
