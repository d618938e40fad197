"""Budgets of thinking, and grammars and calls behind it, of a real engine with a tiny model."""

import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from server.api.responses.schema.answer import ResponseObject
from tests.api.harness import CHAT, Json, assert_error, chat_body, chunks, in_process
from tests.api.response_types import RESPONSES
from tests.api.thinking import answer, ask, thinking_app
from tests.api.tiny_server import TinyServer, tiny_server
from tests.doubles import ScriptedEngine, byte_tokenizer
from tests.thinking import (
    DEEPSEEK_R1,
    END_THINK_ID,
    GPT_OSS,
    QWEN3,
    steps_of,
    thinking_ids,
    thinking_template,
)

R1_WITH_TOOLS = "{{ '' if tools }}" + DEEPSEEK_R1
"""Shows no tools, so that prompts stay short."""
SHORT_GPT_OSS = "{{ reasoning_effort if tools and false }}<|channel|><|message|><|start|>assistant"
BUDGET = 7
OFF = {"policy": "off"}
CHAIN = {"policy": "chain"}
TOOLS = [
    {"type": "function", "function": {"name": "f", "strict": True, "parameters": {
        "type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"],
        "additionalProperties": False,
    }}},
]  # fmt: skip


@pytest.fixture
async def server() -> AsyncGenerator[TinyServer]:
    """Its model always thinks; the prompt has the first mark."""
    async with tiny_server(chat_template=thinking_template(R1_WITH_TOOLS)) as server:
        yield server


async def chat(server: TinyServer, **fields: Any) -> Json:
    body = chat_body(max_tokens=120, temperature=1.2, seed=4, **fields)
    return await server.post(CHAT, **body)


@pytest.mark.parametrize("speculation", [OFF, CHAIN])
async def test_a_grammar_begins_behind_the_budget_s_end(
    server: TinyServer, speculation: Json
) -> None:
    asked = {"choice": ["good", "bad"], "thinking_token_budget": BUDGET, "return_token_ids": True}
    body = await chat(server, speculation=speculation, **asked)
    (choice,) = body["choices"]
    message = choice["message"]
    assert message["content"] in ("good", "bad")
    assert 0 < len(message["reasoning_content"]) <= BUDGET
    assert body["usage"]["completion_tokens_details"]["reasoning_tokens"] <= BUDGET
    ids = choice["token_ids"]
    assert bytes_of(ids[BUDGET : BUDGET + 8]) == b"</think>"
    free = await chat(server, speculation=OFF, return_token_ids=True)
    assert ids[:BUDGET] == free["choices"][0]["token_ids"][:BUDGET]
    stream = await server.client.post(
        CHAT, json=chat_body(max_tokens=120, temperature=1.2, seed=4, stream=True, **asked)
    )
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks(stream.text)]
    assert "".join(delta.get("content") or "" for delta in deltas) == message["content"]
    thoughts = "".join(delta.get("reasoning_content") or "" for delta in deltas)
    assert thoughts == message["reasoning_content"]


def bytes_of(token_ids: list[int]) -> bytes:
    return b"".join(map(byte_tokenizer().token_bytes, token_ids))


@pytest.mark.parametrize("speculation", [OFF, CHAIN])
async def test_calls_are_enforced_behind_the_thinking(
    server: TinyServer, speculation: Json
) -> None:
    body = await chat(
        server,
        speculation=speculation,
        tools=TOOLS,
        tool_choice="required",
        parallel_tool_calls=False,
        thinking_token_budget=BUDGET,
    )
    (call,) = body["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "f"
    assert isinstance(json.loads(call["function"]["arguments"])["a"], bool)
    assert body["choices"][0]["message"]["reasoning_content"]


async def test_responses_have_budgets_too(server: TinyServer) -> None:
    body = {"input": "hi", "choice": ["good"], "thinking_token_budget": 0, "max_output_tokens": 60}
    response = await server.post(RESPONSES, **body)
    ResponseObject.model_validate(response)
    (message,) = response["output"]
    assert message["content"][0]["text"] == "good"
    assert response["usage"]["output_tokens_details"] == {"reasoning_tokens": 0}


async def test_what_the_engine_is_told() -> None:
    engine = ScriptedEngine(steps_of("<think>a</think>b"))
    await ask(engine, thinking_token_budget=3)
    thinking = engine.requests[-1].params.thinking
    assert thinking is not None
    assert (thinking.budget, thinking.end_ids, thinking.is_open) == (3, (END_THINK_ID,), False)
    await ask(engine, reasoning_effort="none", thinking_token_budget=3)
    assert engine.requests[-1].params.thinking is None
    await ask(engine, "{{ messages[0].content }}", thinking_token_budget=3)
    assert engine.requests[-1].params.thinking is None


@pytest.mark.parametrize("template", [QWEN3, DEEPSEEK_R1, GPT_OSS])
async def test_what_the_engine_is_told_where_nothing_is_told_apart(template: str) -> None:
    """Thoughts can be ended there too; but a grammar holds for all that is written."""
    engine = ScriptedEngine(steps_of("<think>a</think>b"))
    async with in_process(thinking_app(engine, template, thinks=False)) as client:
        for fields in (
            {"thinking_token_budget": 3},
            {},
            {"thinking_token_budget": 3, "choice": ["a"]},
        ):
            response = await client.post(CHAT, json=chat_body(**fields))
            assert response.status_code == 200, response.text
            assert "reasoning_content" not in response.json()["choices"][0]["message"]
    budgets = [request.params.thinking for request in engine.requests]
    assert [thinking and thinking.budget for thinking in budgets] == [3, None, None]


@pytest.mark.parametrize("value", [-1, 1.5, "3", 2**40])
async def test_bad_budgets(value: object) -> None:
    response = await answer("a", thinking_token_budget=value)
    assert_error(response, 400, "invalid_value", "thinking_token_budget")


@pytest.mark.parametrize(
    ("choice", "reason"),
    [("required", "tool_calls"), ({"type": "function", "function": {"name": "f"}}, "stop")],
)
@pytest.mark.parametrize("speculation", [OFF, CHAIN])
async def test_a_demanded_call_is_a_message_in_a_channel(
    choice: object, reason: str, speculation: Json
) -> None:
    """Whatever the model would rather say; it may think before."""
    async with tiny_server(chat_template=thinking_template(SHORT_GPT_OSS)) as server:
        body = await chat(
            server, tools=TOOLS, tool_choice=choice, thinking_token_budget=BUDGET,
            speculation=speculation,
        )  # fmt: skip
    (answer,) = body["choices"]
    (call,) = answer["message"]["tool_calls"]
    assert call["function"]["name"] == "f"
    assert isinstance(json.loads(call["function"]["arguments"])["a"], bool)
    assert (answer["message"]["content"], answer["finish_reason"]) == (None, reason)
    assert body["usage"]["completion_tokens_details"]["reasoning_tokens"] <= BUDGET


async def test_what_the_engine_is_told_of_channels() -> None:
    engine = ScriptedEngine(steps_of("x"))
    end, next_, final = "<|end|>", "<|start|>assistant", "<|channel|>final<|message|>"
    cases: list[tuple[Json, str]] = [
        ({}, end + next_ + final),
        ({"tools": TOOLS}, end + next_),
        ({"tools": TOOLS, "tool_choice": "none"}, end + next_ + final),
    ]
    for fields, forced in cases:
        await ask(engine, GPT_OSS, thinking_token_budget=1, **fields)
        thinking = engine.requests[-1].params.thinking
        assert thinking is not None
        assert thinking.end_ids == tuple(thinking_ids(forced))


async def test_calls_in_channels_that_can_not_be_enforced() -> None:
    other = {"type": "function", "function": {"name": "g"}}
    several = [*TOOLS, other]
    response = await ask(ScriptedEngine([]), GPT_OSS, tools=several, tool_choice="required")
    assert_error(response, 400, "unsupported_field", "tool_choice")
    asked = {"tools": TOOLS, "response_format": {"type": "json_object"}}
    response = await ask(ScriptedEngine([]), GPT_OSS, **asked)
    assert_error(response, 400, "unsupported_field", "response_format")
