"""Models, health, metrics, request ids and the API document."""

import pytest

from tests.api.harness import CHAT, MODEL, assert_error, chat_body, in_process, make_app
from tests.doubles import ScriptedEngine, one_by_one


async def test_models() -> None:
    card = {
        "id": MODEL,
        "object": "model",
        "created": 1_700_000_000,
        "owned_by": "glidecape",
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


@pytest.mark.parametrize("given", ["", "a b", "x" * 129])
async def test_odd_request_ids_are_replaced(given: str) -> None:
    async with in_process(make_app(ScriptedEngine([]))) as client:
        response = await client.get("/health", headers={"x-request-id": given})
    assert response.headers["x-request-id"] != given


async def test_api_document_knows_no_422() -> None:
    async with in_process(make_app(ScriptedEngine([]))) as client:
        paths = (await client.get("/openapi.json")).json()["paths"]
    assert set(paths[CHAT]["post"]["responses"]) == {"200", "4XX", "5XX"}


async def test_conversations_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG"):
        async with in_process(make_app(ScriptedEngine(one_by_one("secret")))) as client:
            body = chat_body(stream=True, messages=[{"role": "user", "content": "private"}])
            await client.post(CHAT, json=body)
            await client.post(CHAT, json={**body, "top_p": 5})
    assert "content" not in caplog.text
    assert "private" not in caplog.text
