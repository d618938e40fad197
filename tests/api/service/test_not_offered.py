"""What is not offered here, and says so: endpoints, and tools that are no functions."""

from dataclasses import replace
from typing import Any

import pytest

from server.api.middleware.request import DROPPED_TOOLS_HEADER
from server.api.service.not_offered import NOT_OFFERED
from tests.api.harness import CHAT, INFO, Json, assert_error, in_process, make_app
from tests.api.message_types import assert_message_error
from tests.api.openai_schema import PUBLISHED
from tests.api.response_types import RESPONSES, ask, prompt_text
from tests.api.tool_chats import CLOCK, WEATHER, says, tool_body
from tests.doubles import one_by_one

DROPPING = replace(INFO, drops_other_tools=True)


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_endpoints(method: str) -> None:
    async with in_process(make_app(says([]))) as client:
        for name, what in NOT_OFFERED.items():
            for path in (f"/v1/{name}", f"/v1/{name}/a/b"):
                response = await client.request(method, path, json={"input": "a"})
                if name.startswith("messages/"):
                    message = assert_message_error(response, 404, "not_found_error")
                else:
                    message = assert_error(response, 404, "not_found")["message"]
                assert f"/v1/{name} is not offered" in message
                assert what in message


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "chat/completions/chatcmpl-1"),
        ("POST", "responses/compact"),
        ("POST", "responses/resp_1/cancel"),
    ],
)
async def test_endpoints_beside_those_that_are_offered(method: str, path: str) -> None:
    async with in_process(make_app(says([]))) as client:
        response = await client.request(method, f"/v1/{path}")
    assert "is not offered" in assert_error(response, 404, "not_found")["message"]


def test_all_of_openais_endpoints_are_served_or_named() -> None:
    published = {path.split("/")[1].split("?")[0] for path in PUBLISHED["paths"]}
    assert published - set(NOT_OFFERED) == {"chat", "completions", "models", "responses"}


async def test_other_paths_are_simply_not_found() -> None:
    async with in_process(make_app(says([]))) as client:
        for path in ("/v1/audios", "/v1", "/embeddings", "/v1/chat"):
            error = assert_error(await client.get(path), 404, "not_found")
            assert "offered" not in error["message"]


CODEX: list[Json] = [
    {"type": "web_search", "external_web_access": False},
    {"type": "namespace", "name": "a", "tools": [{"type": "function"}]},
    {"type": "image_generation", "output_format": "png"},
    {"type": "custom", "name": "apply_patch", "format": {"type": "grammar"}},
]
FLAT: list[Json] = [{"type": "function", **each["function"]} for each in (WEATHER, CLOCK)]


@pytest.mark.parametrize("index", [0, 1, 2])
async def test_other_tools_are_refused(index: int) -> None:
    for path, tools, base in (
        (CHAT, [WEATHER, CLOCK], tool_body()),
        (RESPONSES, FLAT, {"input": "a"}),
    ):
        given: list[Any] = [*tools[:index], CODEX[0], *tools[index:]]
        async with in_process(make_app(says([]))) as client:
            response = await client.post(path, json={**base, "tools": given})
        error = assert_error(response, 400, "unsupported_field", f"tools.{index}.type")
        assert "web_search" in error["message"]


async def test_other_tools_are_dropped_and_named() -> None:
    names = "web_search, namespace, image_generation, custom"
    engine = says(one_by_one("a"))
    async with in_process(make_app(engine, info=DROPPING)) as client:
        plain = await client.post(CHAT, json=tool_body())
        assert DROPPED_TOOLS_HEADER not in plain.headers
        mixed = [*CODEX[:2], WEATHER, *CODEX[2:], CLOCK]
        for stream in (False, True):
            response = await client.post(CHAT, json=tool_body(tools=mixed, stream=stream))
            assert response.status_code == 200, response.text
            assert response.headers[DROPPED_TOOLS_HEADER] == names
            assert prompt_text(engine, -1) == prompt_text(engine, 0)
        body = {"input": "hi", "tools": [*CODEX, *FLAT]}
        response = await client.post(RESPONSES, json=body)
        assert response.headers[DROPPED_TOOLS_HEADER] == names
        assert [tool["name"] for tool in response.json()["tools"]] == ["weather", "clock"]
        assert prompt_text(engine, -1) == prompt_text(engine, 0)
        response = await client.post(f"{RESPONSES}/input_tokens", json=body)
        assert response.headers[DROPPED_TOOLS_HEADER] == names
        assert response.json()["input_tokens"] == len(engine.requests[0].prompt_token_ids)
        messages = tool_body()["messages"]
        response = await client.post("/tokenize", json={"messages": messages, "tools": mixed})
        assert response.headers[DROPPED_TOOLS_HEADER] == names


async def test_places_of_tools_are_those_of_the_body() -> None:
    """Also where some before them are dropped."""
    bad: Json = {"type": "function", "function": {"name": "f", "parameters": {"type": "string"}}}
    async with in_process(make_app(says([]), info=DROPPING)) as client:
        response = await client.post(CHAT, json=tool_body(tools=[CODEX[0], bad]))
        assert_error(response, 400, "invalid_value", "tools.1.function.parameters.type")
        bad["function"] |= {"strict": True, "parameters": {"properties": {"a": {"not": {}}}}}
        response = await client.post(CHAT, json=tool_body(tools=[CODEX[0], bad]))
        path = "tools.1.function.parameters.properties.a.not"
        assert_error(response, 400, "invalid_value", path)


async def test_nothing_that_was_dropped_can_be_required() -> None:
    async with in_process(make_app(says([]), info=DROPPING)) as client:
        response = await client.post(CHAT, json=tool_body(tools=CODEX, tool_choice="required"))
        assert_error(response, 400, "invalid_value", "tool_choice")
        response = await client.post(CHAT, json=tool_body(tool_choice={"type": "web_search"}))
        assert_error(response, 400, "unsupported_field", "tool_choice.type")


async def test_odd_types_make_no_odd_headers() -> None:
    tools = [{"type": "a\r\nset-cookie: x"}, {"type": "é,"}, {"type": "x" * 999}]
    async with in_process(make_app(says(one_by_one("a")), info=DROPPING)) as client:
        response = await client.post(CHAT, json=tool_body(tools=tools))
    assert response.headers[DROPPED_TOOLS_HEADER] == f"a??set-cookie:?x, ??, {'x' * 80}"


async def test_input_tokens_are_those_of_the_response() -> None:
    engine = says(one_by_one("a"))
    async with in_process(make_app(engine)) as client:
        first = await ask(client, "one", instructions="kind")
        more: Json = {"previous_response_id": first["id"], "tools": FLAT, "instructions": "rude"}
        second = await ask(client, "two", **more)
        for fields, response in (
            ({"input": "one", "instructions": "kind"}, first),
            ({"input": "two", **more}, second),
        ):
            counted = await client.post(f"{RESPONSES}/input_tokens", json=fields)
            expected = response["usage"]["input_tokens"]
            assert counted.json() == {
                "object": "response.input_tokens",
                "input_tokens": expected,
            }
        alone = await client.post(f"{RESPONSES}/input_tokens", json={"instructions": "kind"})
        assert alone.json()["input_tokens"] == len("system:kind\n")
        nothing = await client.post(f"{RESPONSES}/input_tokens", json={})
        assert_error(nothing, 400, "invalid_value", "input")
    assert len(engine.requests) == 2


async def test_tokenizer_info() -> None:
    """As lm-eval asks for it."""
    async with in_process(make_app(says([]))) as client:
        info = (await client.get("/tokenizer_info")).json()
        assert (info["bos_token"], info["eos_token"], info["pad_token"]) == ("<s>", "</s>", None)
        assert info["chat_template"] == "{{ messages }}"
        body = {"prompt": info["eos_token"], "add_special_tokens": False}
        assert (await client.post("/tokenize", json=body)).json()["tokens"] == [257]
