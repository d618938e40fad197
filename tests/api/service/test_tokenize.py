"""`/tokenize` and `/detokenize`: vLLM's shape, the tokens that the completion endpoints see."""

import json
from dataclasses import replace

import httpx
import pytest

from server.api.middleware.api_keys import ApiKeys
from tests.api.harness import (
    CHAT,
    COMPLETIONS,
    MIDDLEWARE,
    Json,
    assert_error,
    in_process,
    make_app,
    post,
)
from tests.api.tool_chats import CLOCK, WEATHER, function, says, tool_body
from tests.doubles import BOS_ID, EOS_ID, ScriptedEngine, ids, one_by_one

CHAT_BODY: Json = {"messages": [{"role": "user", "content": "hi"}]}


async def ask(path: str, body: Json) -> httpx.Response:
    return await post(ScriptedEngine([]), path, body)


async def test_a_text() -> None:
    assert (await ask("/tokenize", {"prompt": "é<s>"})).json() == {
        "count": 3,
        "max_model_len": 512,
        "tokens": [*ids("é"), BOS_ID],
        "token_strs": None,
    }


async def test_token_strings_are_the_vocabularys() -> None:
    body = {"prompt": "a b<s>", "return_token_strs": True}
    assert (await ask("/tokenize", body)).json()["token_strs"] == ["a", "Ġ", "b", "<s>"]


@pytest.mark.parametrize(
    ("extra", "text"),
    [
        ({}, "user:hi\n"),
        ({"add_generation_prompt": True}, "user:hi\n"),
        ({"add_generation_prompt": False}, "user:hi"),
    ],
)
async def test_a_chat(extra: Json, text: str) -> None:
    answer = (await ask("/tokenize", {**CHAT_BODY, **extra})).json()
    assert answer["tokens"] == ids(text)
    assert answer["count"] == len(text)


async def test_they_are_those_of_the_completion_endpoints() -> None:
    for path, body in ((CHAT, CHAT_BODY), (COMPLETIONS, {"prompt": "Grüße <s>"})):
        engine = ScriptedEngine(one_by_one("a"))
        await post(engine, path, body)
        tokens = (await ask("/tokenize", body)).json()["tokens"]
        assert tuple(tokens) == engine.requests[0].prompt_token_ids


@pytest.mark.parametrize("strict", [False, True])
async def test_tools_count_as_in_the_chat_request(strict: bool) -> None:
    tool = function(description="é", strict=strict, parameters={"type": "object"})
    body = tool_body(tools=[WEATHER, CLOCK, tool])
    engine = says(one_by_one("a"))
    await post(engine, CHAT, body)
    answer = (await ask("/tokenize", body)).json()
    assert tuple(answer["tokens"]) == engine.requests[0].prompt_token_ids
    assert answer["count"] > (await ask("/tokenize", CHAT_BODY)).json()["count"]


async def test_thoughts_that_are_no_unicode() -> None:
    for name in ("reasoning", "reasoning_content"):
        said = {"role": "assistant", "content": "a", name: "\ud800"}
        content = json.dumps({"messages": [said]})
        async with in_process(make_app(ScriptedEngine([]))) as client:
            response = await client.post(
                "/tokenize", content=content, headers={"content-type": "application/json"}
            )
        assert_error(response, 400, "invalid_value", f"messages.0.{name}")


async def test_no_tools() -> None:
    plain = await ask("/tokenize", CHAT_BODY)
    for nothing in ([], None):
        assert (await ask("/tokenize", {**CHAT_BODY, "tools": nothing})).json() == plain.json()


async def test_a_text_longer_than_the_context_is_counted() -> None:
    assert (await ask("/tokenize", {"prompt": "x" * 50_000})).json()["count"] == 50_000


async def test_an_empty_text() -> None:
    assert (await ask("/tokenize", {"prompt": ""})).json()["tokens"] == []
    assert (await ask("/detokenize", {"tokens": []})).json() == {"prompt": ""}


@pytest.mark.parametrize("text", ["Grüße 你好 🙂", " a  b ", "a<s>b</s>", ""])
async def test_there_and_back(text: str) -> None:
    tokens = (await ask("/tokenize", {"prompt": text})).json()["tokens"]
    assert (await ask("/detokenize", {"tokens": tokens})).json() == {"prompt": text}


async def test_bytes_that_are_no_text() -> None:
    answer = await ask("/detokenize", {"tokens": [*ids("a"), ids("é")[0]]})
    assert answer.json() == {"prompt": "a\ufffd"}


@pytest.mark.parametrize(
    ("path", "body", "code", "param"),
    [
        ("/tokenize", {}, "invalid_value", "prompt"),
        ("/tokenize", {**CHAT_BODY, "prompt": "x"}, "invalid_value", "prompt"),
        ("/tokenize", {"messages": []}, "invalid_value", "messages"),
        ("/tokenize", {"prompt": 1}, "invalid_value", "prompt"),
        (
            "/tokenize",
            {"prompt": "x", "add_generation_prompt": True},
            "invalid_value",
            "add_generation_prompt",
        ),
        ("/tokenize", {"prompt": "x", "tools": [CLOCK]}, "invalid_value", "tools"),
        ("/tokenize", {"prompt": "x", "tools": []}, "invalid_value", "tools"),
        ("/tokenize", tool_body(tools=[{}]), "invalid_value", "tools.0.type"),
        ("/tokenize", tool_body(tools=[CLOCK, CLOCK]), "invalid_value", "tools.1.function.name"),
        ("/tokenize", {"prompt": "x", "chat_template": "{{"}, "unknown_field", "chat_template"),
        ("/detokenize", {}, "invalid_value", "tokens"),
        ("/detokenize", {"tokens": "x"}, "invalid_value", "tokens"),
        ("/detokenize", {"tokens": [1, EOS_ID + 1]}, "invalid_value", "tokens.1"),
        ("/detokenize", {"tokens": [-1]}, "invalid_value", "tokens.0"),
    ],
)
async def test_bad_requests(path: str, body: Json, code: str, param: str) -> None:
    assert_error(await ask(path, body), 400, code, param)


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize"])
async def test_another_model(path: str) -> None:
    body = (
        {"model": "gpt-4", "prompt": "x"} if path == "/tokenize" else {"model": "y", "tokens": []}
    )
    assert_error(await ask(path, body), 404, "model_not_found", "model")


async def test_they_need_a_key() -> None:
    locked = replace(MIDDLEWARE, api_keys=ApiKeys(["k"]))
    async with in_process(make_app(ScriptedEngine([]), middleware=locked)) as client:
        refused = await client.post("/tokenize", json={"prompt": "x"})
        allowed = await client.post(
            "/tokenize", json={"prompt": "x"}, headers={"authorization": "Bearer k"}
        )
    assert_error(refused, 401, "invalid_api_key")
    assert allowed.status_code == 200
