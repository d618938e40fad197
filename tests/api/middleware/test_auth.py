"""Which paths need a key, and what a wrong one gets."""

from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest
from openai import AsyncOpenAI, AuthenticationError

from server.api.middleware.api_keys import ApiKeys
from server.api.middleware.auth import OPEN_PATHS
from tests.api.harness import (
    CHAT,
    COMPLETIONS,
    MIDDLEWARE,
    MODEL,
    assert_error,
    chat_body,
    in_process,
    live_app,
    make_app,
)
from tests.doubles import ScriptedEngine, one_by_one

LOCKED = replace(MIDDLEWARE, api_keys=ApiKeys(["sesame", "other"]))


def good(key: str = "sesame") -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", CHAT),
        ("POST", COMPLETIONS),
        ("GET", "/v1/models"),
        ("GET", f"/v1/models/{MODEL}"),
        ("POST", "/tokenize"),
        ("POST", "/detokenize"),
        ("GET", "/no/such/path"),
        ("GET", "//v1//models/"),
        ("GET", "/health/x"),
        ("GET", "/x/health"),
        ("GET", "/v1/%2e%2e/health"),
    ],
)
async def test_everything_else_needs_a_key(method: str, path: str) -> None:
    engine = ScriptedEngine(one_by_one("a"))
    async with in_process(make_app(engine, middleware=LOCKED)) as client:
        response = await client.request(method, path, json=chat_body())
    error = assert_error(response, 401, "invalid_api_key")
    assert response.headers["www-authenticate"] == "Bearer"
    assert "Authorization: Bearer" in error["message"]
    assert engine.requests == []


@pytest.mark.parametrize("path", sorted(OPEN_PATHS))
async def test_open_paths(path: str) -> None:
    async with in_process(make_app(ScriptedEngine([]), middleware=LOCKED)) as client:
        assert (await client.get(path)).status_code == 200


@pytest.mark.parametrize("key", ["sesame", "other"])
async def test_a_valid_key(key: str) -> None:
    async with in_process(make_app(ScriptedEngine(one_by_one("a")), middleware=LOCKED)) as client:
        headers = good(key)
        assert (await client.post(CHAT, json=chat_body(), headers=headers)).status_code == 200
        headers = {"authorization": f"bearer  {key} "}
        assert (await client.get("/v1/models", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "given",
    [
        b"",
        b"Bearer",
        b"Bearer ",
        b"Bearer sesam",
        b"Bearer sesame2",
        b"Bearer \xff",
        b"Basic sesame",
        b"sesame",
        b"Bearer sesame, other",
    ],
)
async def test_a_wrong_key(given: bytes) -> None:
    async with in_process(make_app(ScriptedEngine([]), middleware=LOCKED)) as client:
        response = await client.get("/v1/models", headers=[(b"authorization", given)])
    assert_error(response, 401, "invalid_api_key")
    assert "sesam" not in response.text  # never sent back


async def test_the_body_of_a_stranger_is_not_read() -> None:
    num_read = 0

    async def body() -> AsyncGenerator[bytes, None]:
        nonlocal num_read
        num_read += 1
        yield b"{}"

    async with in_process(make_app(ScriptedEngine([]), middleware=LOCKED)) as client:
        assert_error(await client.post(CHAT, content=body()), 401, "invalid_api_key")
    assert num_read == 0


async def test_refusals_are_counted_by_route() -> None:
    async with in_process(make_app(ScriptedEngine([]), middleware=LOCKED)) as client:
        await client.post(CHAT, json=chat_body())
        await client.get("/invented/1")
        metrics = (await client.get("/metrics")).text
    assert f'http_requests_total{{route="{CHAT}",status="401"}} 1.0' in metrics
    assert 'http_requests_total{route="unmatched",status="401"} 1.0' in metrics


async def test_the_official_client() -> None:
    app = make_app(ScriptedEngine(one_by_one("a")), middleware=LOCKED)
    async with live_app(app) as url:
        async with AsyncOpenAI(base_url=f"{url}/v1", api_key="sesame") as client:
            assert (await client.completions.create(model=MODEL, prompt="x")).choices
        async with AsyncOpenAI(base_url=f"{url}/v1", api_key="wrong") as client:
            with pytest.raises(AuthenticationError) as caught:
                await client.models.list()
    assert caught.value.code == "invalid_api_key"


@pytest.mark.parametrize(
    "headers",
    [
        {"x-api-key": "other"},
        {"x-api-key": " other "},
        {"x-api-key": "other", "authorization": "Basic dTpw"},
        {"x-api-key": "wrong", "authorization": "Bearer other"},
    ],
)
async def test_the_other_header_for_keys(headers: dict[str, str]) -> None:
    async with in_process(make_app(ScriptedEngine([]), middleware=LOCKED)) as client:
        assert (await client.get("/v1/models", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"x-api-key": "wrong"},
        {"x-api-key": ""},
        {"x-api-key": "other", "authorization": "Bearer wrong"},
    ],
)
async def test_a_wrong_key_in_the_other_header(headers: dict[str, str]) -> None:
    async with in_process(make_app(ScriptedEngine([]), middleware=LOCKED)) as client:
        response = await client.get("/v1/models", headers=headers)
    assert_error(response, 401, "invalid_api_key")


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_an_open_path_takes_no_body_of_a_stranger(method: str) -> None:
    async with in_process(make_app(ScriptedEngine([]), middleware=LOCKED)) as client:
        response = await client.request(method, "/health", content=b"a" * 100)
        assert_error(response, 401, "invalid_api_key")
