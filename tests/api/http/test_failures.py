"""The engine dies, the code is wrong, the client leaves: nothing hangs, nothing leaks."""

import asyncio
import logging
from collections.abc import AsyncGenerator

import httpx
import pytest

from server.api.generation import answer
from server.engine.outputs import RequestOutput
from server.engine.types import Request
from tests.api.harness import (
    CHAT,
    COMPLETIONS,
    assert_error,
    chat_body,
    events,
    in_process,
    live_server,
    make_app,
    post,
)
from tests.doubles import ScriptedEngine, one_by_one


class BuggyEngine(ScriptedEngine):
    """Raises what nobody foresaw."""

    async def generate(self, request: Request) -> AsyncGenerator[RequestOutput, None]:
        if self.steps:
            async for output in super().generate(request):
                yield output
                break
        raise ZeroDivisionError("a secret")


class AbortingEngine(ScriptedEngine):
    async def generate(self, request: Request) -> AsyncGenerator[RequestOutput, None]:
        yield RequestOutput(
            request_id=request.request_id,
            token_ids=(),
            logprobs=None,
            finish_reason="abort",
            stop_token_id=None,
            num_prompt_tokens=1,
            num_output_tokens=0,
            num_cached_tokens=0,
        )


@pytest.mark.parametrize("stream", [False, True])
async def test_engine_dies_before_the_first_token(stream: bool) -> None:
    engine = ScriptedEngine(one_by_one("abc"), die_after=0)
    response = await post(engine, CHAT, chat_body(stream=stream))
    assert_error(response, 500, "internal_error")
    assert engine.num_open == 0


async def test_engine_dies_during_a_whole_answer() -> None:
    engine = ScriptedEngine(one_by_one("abc"), die_after=2)
    assert_error(await post(engine, CHAT, chat_body()), 500, "internal_error")


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
async def test_engine_dies_in_mid_stream(path: str) -> None:
    engine = ScriptedEngine(one_by_one("abc"), die_after=2)
    body = chat_body(stream=True) if path == CHAT else {"prompt": "x", "stream": True}
    response = await post(engine, path, body)
    assert response.status_code == 200
    *_, last, done = events(response.text)
    assert done == "[DONE]"
    assert last == {
        "error": {
            "message": "the engine has stopped",
            "type": "server_error",
            "param": None,
            "code": "internal_error",
        }
    }
    assert engine.num_open == 0


async def test_engine_gives_up_a_request() -> None:
    """The engine ends it with `abort` although the client is still here."""
    response = await post(AbortingEngine([]), CHAT, chat_body())
    assert_error(response, 500, "internal_error")


async def test_health_after_death() -> None:
    engine = ScriptedEngine(one_by_one("abc"), die_after=0)
    async with in_process(make_app(engine)) as client:
        assert (await client.get("/health")).status_code == 200
        await client.post(CHAT, json=chat_body())
        for path in ("/health", "/ready"):
            assert_error(await client.get(path), 503, "internal_error")


@pytest.mark.parametrize("stream", [False, True])
async def test_unexpected_exception_tells_nothing(
    stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        response = await post(BuggyEngine([]), CHAT, chat_body(stream=stream))
    assert_error(response, 500, "internal_error")
    assert "secret" not in response.text
    assert response.headers["x-request-id"] in caplog.text
    assert "ZeroDivisionError: a secret" in caplog.text


async def test_unexpected_exception_in_mid_stream(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        response = await post(BuggyEngine(one_by_one("ab")), CHAT, chat_body(stream=True))
    *_, last, _done = events(response.text)
    assert isinstance(last, dict)
    assert last["error"]["code"] == "internal_error"
    assert "secret" not in response.text
    assert "ZeroDivisionError: a secret" in caplog.text


async def test_client_leaves_in_mid_stream() -> None:
    engine = ScriptedEngine(one_by_one("abc"), hang_after=2)
    async with live_server(engine) as url, httpx.AsyncClient(base_url=url) as client:
        async with client.stream("POST", CHAT, json=chat_body(stream=True)) as response:
            async for line in response.aiter_lines():
                if '"content":"b"' in line:
                    break
            assert engine.num_open == 1
        await asyncio.wait_for(engine.closed.wait(), 60)
        assert engine.num_open == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_client_leaves_before_the_first_token(
    stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noticed while a stream still waits with its status for the first token."""
    monkeypatch.setattr(answer, "FIRST_PIECE_SECONDS", 600.0)
    engine = ScriptedEngine(one_by_one("abc"), hang_after=0)
    async with live_server(engine) as url, httpx.AsyncClient(base_url=url) as client:
        request = asyncio.create_task(client.post(CHAT, json=chat_body(stream=stream)))
        await asyncio.wait_for(engine.hangs.wait(), 60)
        request.cancel()
        await asyncio.wait_for(engine.closed.wait(), 60)
        metrics = (await client.get("/metrics")).text
    assert f'http_requests_total{{route="{CHAT}",status="499"}} 1.0' in metrics


async def test_client_leaves_during_a_whole_answer() -> None:
    engine = ScriptedEngine(one_by_one("abc"), hang_after=2)
    async with live_server(engine) as url, httpx.AsyncClient(base_url=url) as client:
        request = asyncio.create_task(client.post(CHAT, json=chat_body()))
        await asyncio.wait_for(engine.hangs.wait(), 60)
        request.cancel()
        await asyncio.wait_for(engine.closed.wait(), 60)


async def test_headers_and_pings_while_queued(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first token takes long: headers go out, comments keep the stream open, and the answer
    is complete."""
    monkeypatch.setattr(answer, "FIRST_PIECE_SECONDS", 0.01)
    engine = ScriptedEngine(one_by_one("abc"), hang_after=0)
    async with live_server(engine) as url, httpx.AsyncClient(base_url=url) as client:
        async with client.stream("POST", CHAT, json=chat_body(stream=True)) as response:
            assert response.status_code == 200
            lines: list[str] = []
            async for line in response.aiter_lines():
                lines.append(line)
                if line.startswith(": ping"):
                    engine.let_go.set()
    assert any(line.startswith(": ping") for line in lines)
    assert "data: [DONE]" in lines
    assert engine.num_open == 0
