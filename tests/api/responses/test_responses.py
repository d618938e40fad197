"""`POST /v1/responses`, whole: the document, the prompt, and what is refused."""

import math
from typing import Any

import pytest

from server.engine.types import SpeculationParams
from tests.api.harness import MODEL, Json, assert_error, in_process, make_app, post
from tests.api.response_types import RESPONSES, ask, asked, prompt_text
from tests.doubles import ScriptedEngine, one_by_one

LOGPROBS = "message.output_text.logprobs"


async def test_the_whole_document() -> None:
    prompt, response = await asked(says="Grüße", metadata={"a": "b"}, user="me", temperature=0)
    assert prompt == "user:hi\n"
    created = response["created_at"]
    assert response.pop("id").startswith("resp_")
    (message,) = response["output"]
    assert message.pop("id").startswith("msg_")
    text = {"type": "output_text", "text": "Grüße", "annotations": [], "logprobs": []}
    assert response.pop("completed_at") - created in (0, 1)
    assert response == {
        "object": "response",
        "created_at": created,
        "status": "completed",
        "background": False,
        "error": None,
        "frequency_penalty": 0,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "max_tool_calls": None,
        "metadata": {"a": "b"},
        "model": MODEL,
        "output": [
            {"type": "message", "role": "assistant", "status": "completed", "content": [text]}
        ],
        "parallel_tool_calls": True,
        "presence_penalty": 0,
        "previous_response_id": None,
        "prompt_cache_key": None,
        "reasoning": None,
        "safety_identifier": None,
        "service_tier": "default",
        "store": True,
        "temperature": 0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": 1,
        "truncation": "disabled",
        "usage": {
            "input_tokens": 8,
            "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 0},
            "output_tokens": 8,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 16,
        },
        "user": "me",
    }


async def test_items_become_the_chats_messages() -> None:
    prompt, _ = await asked(
        [
            {"role": "developer", "content": "short"},
            {
                "type": "message",
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "one"},
                    {"type": "input_text", "text": "two"},
                ],
            },
            {
                "type": "message",
                "id": "msg_1",
                "status": "completed",
                "role": "assistant",
                "content": [
                    {"type": "output_text", "text": "three", "annotations": [], "logprobs": []},
                    {"type": "refusal", "refusal": "no"},
                ],
            },
            {"role": "assistant", "content": "four"},
            {"role": "user", "content": "five", "type": None, "id": None},
        ],
        instructions="be kind",
    )
    assert prompt == (
        "system:be kind\nsystem:short\nuser:one\ntwo\nassistant:three\nno\nassistant:four\n"
        "user:five\n"
    )


async def test_what_parse_of_the_client_adds_can_be_sent_back() -> None:
    part = {"type": "output_text", "text": "{}", "annotations": [], "parsed": {"a": 1}}
    items = [{"role": "assistant", "content": [part]}, {"role": "user", "content": "x"}]
    assert (await asked(items))[0] == "assistant:{}\nuser:x\n"


async def test_sampling_fields_reach_the_engine() -> None:
    engine = ScriptedEngine(one_by_one("a"))
    async with in_process(make_app(engine)) as client:
        await ask(
            client,
            max_output_tokens=7,
            temperature=0.5,
            top_p=0.9,
            top_k=3,
            min_p=0.1,
            seed=5,
            min_tokens=2,
            ignore_eos=True,
            logit_bias={"65": 1},
            presence_penalty=0.5,
            priority=-1,
            cache_salt="s",
            speculation={"policy": "off", "max_nodes": 3},
        )
    (request,) = engine.requests
    params = request.params
    assert (params.max_tokens, params.temperature, params.top_p, params.top_k) == (7, 0.5, 0.9, 3)
    assert (params.min_p, params.seed, params.min_tokens, params.ignore_eos) == (0.1, 5, 2, True)
    assert (params.logit_bias, params.presence_penalty) == ({65: 1}, 0.5)
    assert (request.priority, request.cache_salt) == (-1, "s")
    assert request.speculation == SpeculationParams("off", None, 3)


async def test_by_default_the_answer_may_fill_the_context() -> None:
    engine = ScriptedEngine(one_by_one("a"), max_model_len=100)
    async with in_process(make_app(engine)) as client:
        await ask(client)
    assert engine.requests[0].params.max_tokens == 100 - len("user:hi\n")
    assert engine.requests[0].params.logprobs is None


async def test_an_answer_that_is_cut_is_incomplete() -> None:
    engine = ScriptedEngine([[97], [98]])
    async with in_process(make_app(engine)) as client:
        response = await ask(client, max_output_tokens=2)
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["completed_at"] is None
    assert response["output"][0]["status"] == "incomplete"
    assert response["usage"]["output_tokens"] == 2


async def test_no_text_is_an_empty_message() -> None:
    _, response = await asked(says="")
    (message,) = response["output"]
    assert [part["text"] for part in message["content"]] == [""]
    assert response["status"] == "completed"


async def test_a_stop_string_ends_the_answer() -> None:
    _, response = await asked(says="one, two", stop=", ")
    assert response["output"][0]["content"][0]["text"] == "one"
    assert response["status"] == "completed"


async def test_logprobs() -> None:
    _, response = await asked(says="é", include=[LOGPROBS], top_logprobs=2)
    part = response["output"][0]["content"][0]
    first, second = part["logprobs"]
    top = [
        {"token": "!", "logprob": -2, "bytes": [33]},
        {"token": '"', "logprob": -3, "bytes": [34]},
    ]
    assert first == {
        "token": "bytes:\\xc3", "logprob": -1, "bytes": [0xC3], "top_logprobs": top,
    }  # fmt: skip
    assert second["bytes"] == [0xA9]
    assert response["top_logprobs"] == 2
    _, response = await asked(include=[LOGPROBS])
    assert response["output"][0]["content"][0]["logprobs"][0]["top_logprobs"] == []


async def test_what_speculation_did_is_told_if_it_is_asked_for() -> None:
    _, response = await asked(speculation={"trace": True})
    assert "speculation" not in response  # a scripted engine doesn't speculate


def message(**fields: object) -> list[dict[str, object]]:
    return [{"role": "user", "content": "a", **fields}]


def part(**fields: object) -> list[dict[str, object]]:
    return message(content=[{"type": "input_text", "text": "a", **fields}])


def tool(**fields: object) -> list[dict[str, object]]:
    return [{"type": "function", "name": "f", **fields}]


Case = tuple[str, Any, str, str]
"""Field, value, the parameter and the code of the error."""

BAD: list[Case] = [
    ("input", None, "input", "invalid_value"),
    ("input", 5, "input", "invalid_value"),
    ("input", [], "input", "invalid_value"),
    ("input", "\ud800", "input", "invalid_value"),
    ("input", ["a"], "input.0", "invalid_value"),
    ("input", [{}], "input.0.role", "invalid_value"),
    ("input", [{"role": "user"}], "input.0.content", "invalid_value"),
    ("input", message(role="tool"), "input.0.role", "invalid_value"),
    ("input", message(role="assistant"), "input", "invalid_value"),  # the template's doing
    ("input", message(mood="good"), "input.0.mood", "unknown_field"),
    ("input", message(status="done"), "input.0.status", "invalid_value"),
    ("input", message(id=""), "input.0.id", "invalid_value"),
    ("input", message(id="x" * 129), "input.0.id", "invalid_value"),
    ("input", [*message(id="a"), *message(id="a")], "input.1.id", "invalid_value"),
    ("input", message(type="computer_call"), "input.0.type", "unsupported_field"),
    ("input", [{"type": "web_search_call", "id": "a"}], "input.0.type", "unsupported_field"),
    ("input", message(type=5), "input.0.type", "invalid_value"),
    ("input", part(type="input_image"), "input.0.content.0.type", "unsupported_field"),
    ("input", part(type="output_text"), "input.0.content.0.type", "invalid_value"),
    ("input", part(text=5), "input.0.content.0.text", "invalid_value"),
    ("input", part(more=5), "input.0.content.0.more", "unknown_field"),
    ("input", [{"type": "item_reference"}], "input.0.id", "invalid_value"),
    ("input", [{"type": "function_call", "call_id": "c"}], "input.0.name", "invalid_value"),
    ("input", [{"type": "function_call_output"}], "input.0.call_id", "invalid_value"),
    ("instructions", 5, "instructions", "invalid_value"),
    ("instructions", ["a"], "instructions", "invalid_value"),
    ("previous_response_id", 5, "previous_response_id", "invalid_value"),
    ("store", 1, "store", "invalid_value"),
    ("include", LOGPROBS, "include", "invalid_value"),
    ("include", ["message.everything"], "include.0", "invalid_value"),
    ("top_logprobs", 21, "top_logprobs", "invalid_value"),
    ("top_logprobs", 1, "top_logprobs", "invalid_value"),  # without include
    ("text", "json", "text", "invalid_value"),
    ("text", {"format": {"type": "xml"}}, "text.format.type", "invalid_value"),
    ("text", {"format": {"type": "json_schema"}}, "text.format.name", "invalid_value"),
    ("tools", {}, "tools", "invalid_value"),
    ("tools", [{"type": "web_search"}], "tools.0.type", "unsupported_field"),
    ("tools", tool(name="a b"), "tools.0.name", "invalid_value"),
    ("tools", tool(defer_loading=True), "tools.0.defer_loading", "unsupported_field"),
    ("tools", tool(function={}), "tools.0.function", "unknown_field"),
    ("tool_choice", "any", "tool_choice", "invalid_value"),
    ("tool_choice", {"type": "mcp"}, "tool_choice.type", "unsupported_field"),
    ("max_output_tokens", 0, "max_output_tokens", "invalid_value"),
    ("max_output_tokens", 10_000, "max_output_tokens", "context_length_exceeded"),
    ("input", "x" * 10_000, "input", "context_length_exceeded"),
    ("temperature", 3, "temperature", "invalid_value"),
    ("temperature", math.nan, "temperature", "invalid_value"),
    ("stream_options", {}, "stream_options", "invalid_value"),
    ("truncation", "sometimes", "truncation", "invalid_value"),
    ("background", True, "background", "unsupported_field"),
    ("background", {}, "background", "unsupported_field"),
    ("background_options", {}, "background_options", "unsupported_field"),
    ("conversation", {}, "conversation", "unsupported_field"),
    ("conversation", "conv_1", "conversation", "unsupported_field"),
    ("prompt", {"id": "p"}, "prompt", "unsupported_field"),
    ("input", [{"type": "reasoning"}], "input", "invalid_value"),
    (
        "input",
        [{"type": "function_call", "call_id": "c", "name": "f", "arguments": {"a": "\ud800"}}],
        "input.0.arguments",
        "invalid_value",
    ),
    *[
        (field, 1, field, "unknown_field")
        for field in ("messages", "max_tokens", "n", "response_format", "logprobs", "functions")
    ],
]


@pytest.mark.parametrize(("field", "value", "param", "code"), BAD)
async def test_bad_value(field: str, value: Any, param: str, code: str) -> None:
    engine = ScriptedEngine(one_by_one("a"))
    response = await post(engine, RESPONSES, {"input": "hi", field: value})
    error = assert_error(response, 400, code, param)
    assert error["message"].startswith(param)
    assert engine.requests == []


NEUTRAL: list[Json] = [
    {"truncation": "disabled"},
    {"background": False},
    {"reasoning": None},
    {"reasoning": {}},
    {"service_tier": "auto"},
    {"include": []},
    {"tools": []},
    {"tool_choice": "none"},
    {"text": {}},
    {"text": {"format": {"type": "text"}}},
    {"parallel_tool_calls": False},
]


@pytest.mark.parametrize("fields", NEUTRAL, ids=str)
async def test_fields_that_ask_for_nothing(fields: Json) -> None:
    prompt, response = await asked(**fields)
    assert prompt == "user:hi\n"
    assert response["status"] == "completed"


async def test_unknown_fields_can_be_left_out() -> None:
    from dataclasses import replace

    from tests.api.harness import MIDDLEWARE

    engine = ScriptedEngine(one_by_one("a"))
    app = make_app(engine, middleware=replace(MIDDLEWARE, drops_unknown_fields=True))
    async with in_process(app) as client:
        await ask(client, message(mood="good"), mood="good")
    assert prompt_text(engine) == "user:a\n"
