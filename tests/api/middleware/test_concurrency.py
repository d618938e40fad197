"""Limits over HTTP: 429 when full, and every way to end gives the place back."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import httpx
import pytest
from fastapi import FastAPI

from server.api.generation import answer
from server.api.middleware.admission import Admission, AdmissionLimits
from server.api.middleware.api_keys import ApiKeys
from server.api.middleware.stack import MiddlewareConfig
from tests.api.harness import (
    CHAT,
    COMPLETIONS,
    MIDDLEWARE,
    assert_error,
    chat_body,
    in_process,
    live_app,
    make_app,
)
from tests.doubles import ScriptedEngine, one_by_one


def limited(max_running: int, max_waiting: int, max_per_key: int | None = None) -> MiddlewareConfig:
    return replace(MIDDLEWARE, limits=AdmissionLimits(max_running, max_waiting, max_per_key))


def counts(app: FastAPI) -> tuple[int, int]:
    """Running and waiting."""
    admission: Admission = app.state.admission
    return admission.num_running, admission.num_waiting


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("stream", [False, True])
async def test_full(path: str, stream: bool) -> None:
    engine = ScriptedEngine(one_by_one("ab"), hang_after=1)
    app = make_app(engine, middleware=limited(1, 1))
    body = chat_body(stream=stream) if path == CHAT else {"prompt": "x", "stream": stream}
    async with asyncio.timeout(60), in_process(app) as client, asyncio.TaskGroup() as group:
        running = group.create_task(client.post(path, json=body))
        await engine.hangs.wait()
        waiting = group.create_task(client.post(path, json=body))
        await until(lambda: counts(app) == (1, 1))
        refused = await client.post(path, json=body)
        error = assert_error(refused, 429, "rate_limit_exceeded")
        assert error["message"].startswith("too many requests: 1 run and 1 wait")
        assert refused.headers["retry-after"] == "1"
        assert len(engine.requests) == 1  # the waiting one is not the engine's yet
        for free in ("/health", "/v1/models", "/metrics"):
            assert (await client.get(free)).status_code == 200
        engine.let_go.set()
    assert running.result().status_code == waiting.result().status_code == 200
    assert counts(app) == (0, 0)


@pytest.mark.parametrize("stream", [False, True])
async def test_several_answers_take_several_places(stream: bool) -> None:
    engine = ScriptedEngine(one_by_one("ab"), hang_after=1)
    app = make_app(engine, middleware=limited(4, 1))
    async with asyncio.timeout(60), in_process(app) as client, asyncio.TaskGroup() as group:
        group.create_task(client.post(CHAT, json=chat_body(n=3, stream=stream)))
        await until(lambda: len(engine.requests) == 3)
        assert counts(app) == (3, 0)
        batch = {"prompt": ["a", "b"], "stream": stream}
        waiting = group.create_task(client.post(COMPLETIONS, json=batch))
        await until(lambda: counts(app) == (3, 1))
        refused = await client.post(CHAT, json=chat_body())
        assert_error(refused, 429, "rate_limit_exceeded")
        assert len(engine.requests) == 3
        engine.let_go.set()
    assert waiting.result().status_code == 200
    assert len(engine.requests) == 5
    assert counts(app) == (0, 0)


async def test_a_client_that_leaves_while_it_waits_again() -> None:
    engine = ScriptedEngine(one_by_one("ab"), hang_after=1)
    app = make_app(engine, middleware=limited(2, 1))
    async with live_app(app) as url, httpx.AsyncClient(base_url=url) as client:
        running = asyncio.create_task(client.post(CHAT, json=chat_body()))
        await engine.hangs.wait()
        leaving = asyncio.create_task(client.post(CHAT, json=chat_body(n=2)))
        await until(lambda: counts(app) == (1, 1))
        leaving.cancel()
        await until(lambda: counts(app) == (1, 0))
        engine.let_go.set()
        assert (await running).status_code == 200
    assert len(engine.requests) == 1


async def test_per_key() -> None:
    engine = ScriptedEngine(one_by_one("ab"), hang_after=1)
    locked = replace(limited(9, 9, 1), api_keys=ApiKeys(["anna", "berta"]))
    app = make_app(engine, middleware=locked)
    anna, berta = ({"authorization": f"Bearer {key}"} for key in ("anna", "berta"))
    async with asyncio.timeout(60), in_process(app) as client, asyncio.TaskGroup() as group:
        for expected in ((1, 0), (1, 1)):
            group.create_task(client.post(CHAT, json=chat_body(), headers=anna))
            await until(lambda expected=expected: counts(app) == expected)
        refused = await client.post(CHAT, json=chat_body(), headers=anna)
        assert_error(refused, 429, "rate_limit_exceeded")
        group.create_task(client.post(CHAT, json=chat_body(), headers=berta))
        await until(lambda: counts(app) == (2, 1))
        engine.let_go.set()
    assert counts(app) == (0, 0)
    assert len(engine.requests) == 3


@pytest.mark.parametrize(
    "body",
    [chat_body(), chat_body(stream=True), chat_body(top_p=5), chat_body(model="other"), {}],
    ids=["whole", "stream", "bad", "not found", "empty"],
)
@pytest.mark.parametrize("die_after", [None, 0, 2])
async def test_every_answer_gives_its_place_back(body: object, die_after: int | None) -> None:
    app = make_app(ScriptedEngine(one_by_one("abc"), die_after=die_after), middleware=limited(1, 0))
    async with in_process(app) as client:
        for path in (CHAT, COMPLETIONS, "/v1/nothing"):
            assert (await client.post(path, json=body)).status_code != 429
            assert counts(app) == (0, 0)


async def test_many_at_once_leave_nothing() -> None:
    app = make_app(ScriptedEngine(one_by_one("abc")), middleware=limited(3, 10))
    async with in_process(app) as client:
        posts = (client.post(CHAT, json=chat_body(stream=n % 2 == 0)) for n in range(40))
        statuses = [response.status_code for response in await asyncio.gather(*posts)]
    assert set(statuses) == {200, 429}
    assert counts(app) == (0, 0)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_gives_its_place_to_the_next(stream: bool) -> None:
    engine = ScriptedEngine(one_by_one("abc"), hang_after=2)
    app = make_app(engine, middleware=limited(1, 1))
    async with live_app(app) as url, httpx.AsyncClient(base_url=url) as client:
        leaving = asyncio.create_task(client.post(CHAT, json=chat_body(stream=stream)))
        await engine.hangs.wait()
        following = asyncio.create_task(client.post(CHAT, json=chat_body()))
        await until(lambda: counts(app) == (1, 1))
        leaving.cancel()
        await until(lambda: len(engine.requests) == 2)
        engine.let_go.set()
        assert (await asyncio.wait_for(following, 60)).status_code == 200
        await until(lambda: counts(app) == (0, 0))


async def test_a_client_that_leaves_in_mid_stream() -> None:
    engine = ScriptedEngine(one_by_one("abc"), hang_after=2)
    app = make_app(engine, middleware=limited(1, 0))
    async with live_app(app) as url, httpx.AsyncClient(base_url=url) as client:
        async with client.stream("POST", CHAT, json=chat_body(stream=True)) as response:
            async for line in response.aiter_lines():
                if '"content":"b"' in line:
                    break
            assert counts(app) == (1, 0)
        await until(lambda: counts(app) == (0, 0))


async def test_a_client_that_leaves_the_queue() -> None:
    engine = ScriptedEngine(one_by_one("abc"), hang_after=1)
    app = make_app(engine, middleware=limited(1, 1))
    async with live_app(app) as url, httpx.AsyncClient(base_url=url) as client:
        running = asyncio.create_task(client.post(CHAT, json=chat_body()))
        await engine.hangs.wait()
        leaving = asyncio.create_task(client.post(CHAT, json=chat_body()))
        await until(lambda: counts(app) == (1, 1))
        leaving.cancel()
        await until(lambda: counts(app) == (1, 0))
        engine.let_go.set()
        assert (await running).status_code == 200
        metrics = (await client.get("/metrics")).text
    assert len(engine.requests) == 1  # the engine never heard of it
    assert f'http_requests_total{{route="{CHAT}",status="499"}} 1.0' in metrics


async def test_a_cancelled_request_leaves_nothing() -> None:
    """As the HTTP server does when its time to shut down is up; running and waiting."""
    engine = ScriptedEngine(one_by_one("abc"), hang_after=1)
    app = make_app(engine, middleware=limited(1, 1))
    async with in_process(app) as client:
        tasks = [asyncio.create_task(client.post(CHAT, json=chat_body())) for _ in range(2)]
        await until(lambda: counts(app) == (1, 1))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert counts(app) == (0, 0)


async def test_a_slow_upload_holds_no_place() -> None:
    app = make_app(ScriptedEngine(one_by_one("a")), middleware=limited(1, 0))
    async with live_app(app) as url, httpx.AsyncClient(base_url=url) as client:
        host, port = url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: 50\r\n\r\n{{".encode())
        await writer.drain()
        assert (await client.post(CHAT, json=chat_body())).status_code == 200
        writer.close()


async def test_a_stream_that_waited_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    """What came while waiting (nothing, but the body has been read) is not lost."""
    monkeypatch.setattr(answer, "FIRST_PIECE_SECONDS", 0.01)
    engine = ScriptedEngine(one_by_one("ab"), hang_after=1)
    app = make_app(engine, middleware=limited(1, 1))
    async with live_app(app) as url, httpx.AsyncClient(base_url=url) as client:
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            group.create_task(client.post(CHAT, json=chat_body()))
            await engine.hangs.wait()
            waiting = group.create_task(client.post(CHAT, json=chat_body(stream=True)))
            await until(lambda: counts(app) == (1, 1))
            engine.let_go.set()
    assert waiting.result().text.endswith("data: [DONE]\n\n")
