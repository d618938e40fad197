"""Models, health, metrics, request ids and the API document."""

import asyncio
import re
from dataclasses import replace

import pytest

from server.api.middleware.admission import AdmissionLimits
from tests.api.harness import CHAT, MIDDLEWARE, MODEL, assert_error, chat_body, in_process, make_app
from tests.doubles import ScriptedEngine, one_by_one


async def test_models() -> None:
    card = {
        "id": MODEL,
        "object": "model",
        "created": 1_700_000_000,
        "owned_by": "glidecape",
        "root": MODEL,
        "max_model_len": 512,
    }
    async with in_process(make_app(ScriptedEngine([]))) as client:
        listed = (await client.get("/v1/models")).json()
        one = (await client.get(f"/v1/models/{MODEL}")).json()
        other = await client.get("/v1/models/other")
    assert listed == {"object": "list", "data": [card]}
    assert one == card
    assert_error(other, 404, "model_not_found", "model")


async def test_ready_only_when_the_engine_is() -> None:
    engine = ScriptedEngine([])
    engine.is_ready = False
    async with in_process(make_app(engine)) as client:
        starting = await client.get("/ready")
        assert (starting.status_code, starting.json()) == (503, {"status": "starting"})
        assert (await client.get("/health")).json() == {"status": "ok"}
        engine.is_ready = True
        assert (await client.get("/ready")).json() == {"status": "ready"}


async def test_version() -> None:
    async with in_process(make_app(ScriptedEngine([]))) as client:
        assert (await client.get("/version")).json() == {"version": "1.2.3"}


async def test_answers_are_counted_by_route_and_status() -> None:
    async with in_process(make_app(ScriptedEngine(one_by_one("a")))) as client:
        await client.post(CHAT, json=chat_body())
        await client.post(CHAT, json=chat_body(stream=True))
        await client.post(CHAT, json=chat_body(top_p=5))
        await client.get("/no/such/path/1")
        await client.get("/no/such/path/2")
        response = await client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    name = "glidecape:http_requests_total"
    assert f'{name}{{route="{CHAT}",status="200"}} 2.0' in response.text
    assert f'{name}{{route="{CHAT}",status="400"}} 1.0' in response.text
    assert f'{name}{{route="unmatched",status="404"}} 2.0' in response.text


async def test_request_id_comes_back() -> None:
    async with in_process(make_app(ScriptedEngine([]))) as client:
        own = await client.get("/health", headers={"x-request-id": "abc-1"})
        first = await client.get("/health")
        second = await client.get("/nothing")
    assert own.headers["x-request-id"] == "abc-1"
    assert len(first.headers["x-request-id"]) == 32
    assert first.headers["x-request-id"] != second.headers["x-request-id"]


async def test_every_answer_has_the_request_id() -> None:
    """Whole, streamed, refused by a route, by the framework, and by the middleware."""
    headers = {"x-request-id": "!abc~-" + "x" * 122}
    middleware = replace(MIDDLEWARE, max_body_size=200, limits=AdmissionLimits(1, 0))
    engine = ScriptedEngine(one_by_one("a"), hang_after=1)
    app = make_app(engine, middleware=middleware)
    async with in_process(app) as client, asyncio.TaskGroup() as group:
        body = chat_body(stream=True)
        stream = group.create_task(client.post(CHAT, json=body, headers=headers))
        await engine.hangs.wait()
        answers = [
            await client.post(CHAT, json=body, headers=headers),
            await client.post(CHAT, json=chat_body(user="x" * 200), headers=headers),
            await client.get(CHAT, headers=headers),
            await client.get("/nothing", headers=headers),
        ]
        engine.let_go.set()
    answers += [stream.result()]
    async with in_process(make_app(ScriptedEngine(one_by_one("a"), die_after=0))) as client:
        answers += [await client.post(CHAT, json=chat_body(), headers=headers)]
    assert [answer.status_code for answer in answers] == [429, 413, 405, 404, 200, 500]
    for answer in answers:
        assert answer.headers.get_list("x-request-id") == [headers["x-request-id"]]


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "é", "a\tb", "\x7f"])
async def test_odd_request_ids_are_replaced(given: str) -> None:
    async with in_process(make_app(ScriptedEngine([]))) as client:
        headers = [(b"x-request-id", given.encode("latin-1"))]
        response = await client.get("/health", headers=headers)
    assert re.fullmatch("[0-9a-f]{32}", response.headers["x-request-id"])


async def test_api_document_knows_no_422() -> None:
    async with in_process(make_app(ScriptedEngine([]))) as client:
        paths = (await client.get("/openapi.json")).json()["paths"]
    for operations in paths.values():
        assert all("422" not in operation["responses"] for operation in operations.values())


async def test_conversations_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG"):
        async with in_process(make_app(ScriptedEngine(one_by_one("secret")))) as client:
            body = chat_body(stream=True, messages=[{"role": "user", "content": "private"}])
            await client.post(CHAT, json=body)
            await client.post(CHAT, json={**body, "top_p": 5})
    assert "content" not in caplog.text
    assert "private" not in caplog.text
