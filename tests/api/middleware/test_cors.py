"""Browsers: off by default; then preflight questions, and CORS headers on errors too."""

from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest

from server.api.middleware.api_keys import ApiKeys
from server.engine.outputs import RequestOutput
from server.engine.types import Request
from tests.api.harness import CHAT, MIDDLEWARE, assert_error, chat_body, in_process, make_app
from tests.doubles import ScriptedEngine, one_by_one

PAGE = "https://app.example.com"
OPEN = replace(MIDDLEWARE, cors_origins=(PAGE,))
PREFLIGHT = {
    "origin": PAGE,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization, content-type, x-stainless-lang",
}
ALLOWED = "access-control-allow-origin"


class BuggyEngine(ScriptedEngine):
    async def generate(self, request: Request) -> AsyncGenerator[RequestOutput, None]:
        raise ZeroDivisionError
        yield


async def test_off_by_default() -> None:
    async with in_process(make_app(ScriptedEngine([]))) as client:
        response = await client.options(CHAT, headers=PREFLIGHT)
        assert response.status_code == 405
        assert ALLOWED not in response.headers
        assert ALLOWED not in (await client.get("/health", headers={"origin": PAGE})).headers


async def test_preflight_needs_no_key_and_has_a_request_id() -> None:
    middleware = replace(OPEN, api_keys=ApiKeys(["key"]))
    async with in_process(make_app(ScriptedEngine([]), middleware=middleware)) as client:
        response = await client.options(CHAT, headers={**PREFLIGHT, "x-request-id": "abc"})
    assert response.status_code == 200
    assert response.headers[ALLOWED] == PAGE
    assert "x-stainless-lang" in response.headers["access-control-allow-headers"]
    assert response.headers["x-request-id"] == "abc"


async def test_another_origin() -> None:
    async with in_process(make_app(ScriptedEngine([]), middleware=OPEN)) as client:
        stranger = {"origin": "https://evil.example.com"}
        response = await client.options(CHAT, headers={**PREFLIGHT, **stranger})
        error = assert_error(response, 400, "invalid_value")
        assert "https://evil.example.com" in error["message"]
        assert "Origin" in response.headers["vary"]
        assert "access-control-allow-methods" not in response.headers
        assert ALLOWED not in response.headers
        assert ALLOWED not in (await client.get("/health", headers=stranger)).headers


async def test_any_origin() -> None:
    middleware = replace(MIDDLEWARE, cors_origins=("*",))
    async with in_process(make_app(ScriptedEngine([]), middleware=middleware)) as client:
        response = await client.get("/health", headers={"origin": "https://else.example.com"})
    assert response.headers[ALLOWED] == "*"
    assert "access-control-allow-credentials" not in response.headers


LOCAL = ("http://localhost:5173", "http://localhost", "https://127.0.0.1:8443", "http://[::1]:1")
FOREIGN = (
    "http://localhost.example.com",
    "http://notlocalhost:5173",
    "http://127.0.0.1.example.com:80",
    "http://localhost:5173.example.com",
    "http://localhost@example.com",
    "file://localhost",
    "null",
)


@pytest.mark.parametrize("origin", [*LOCAL, *FOREIGN])
async def test_pages_of_this_machine(origin: str) -> None:
    middleware = replace(MIDDLEWARE, cors_origins=("localhost", PAGE))
    async with in_process(make_app(ScriptedEngine([]), middleware=middleware)) as client:
        response = await client.options(CHAT, headers={**PREFLIGHT, "origin": origin})
        named = await client.options(CHAT, headers=PREFLIGHT)
    assert (response.status_code == 200) is (origin in LOCAL)
    assert response.headers.get(ALLOWED) == (origin if origin in LOCAL else None)
    assert named.headers[ALLOWED] == PAGE


async def test_answers_streams_and_errors_can_be_read_by_the_page() -> None:
    """Else a page sees "failed to fetch" in place of the reason."""
    middleware = replace(OPEN, api_keys=ApiKeys(["key"]))
    headers = {"origin": PAGE, "authorization": "Bearer key"}
    app = make_app(ScriptedEngine(one_by_one("a")), middleware=middleware)
    async with in_process(app) as client:
        whole = await client.post(CHAT, json=chat_body(), headers=headers)
        stream = await client.post(CHAT, json=chat_body(stream=True), headers=headers)
        bad = await client.post(CHAT, json=chat_body(top_p=5), headers=headers)
        stranger = await client.post(CHAT, json=chat_body(), headers={"origin": PAGE})
    async with in_process(make_app(BuggyEngine([]), middleware=middleware)) as client:
        bug = await client.post(CHAT, json=chat_body(), headers=headers)
    statuses = [response.status_code for response in (whole, stream, bad, stranger, bug)]
    assert statuses == [200, 200, 400, 401, 500]
    for response in (whole, stream, bad, stranger, bug):
        assert response.headers[ALLOWED] == PAGE
        assert "x-request-id" in response.headers["access-control-expose-headers"]
        assert response.headers["x-request-id"]
