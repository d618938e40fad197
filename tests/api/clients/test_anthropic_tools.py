"""Anthropic's own client with tools and structured output, and what Claude Code sends."""

import json
from typing import Any

import httpx
from anthropic import AsyncAnthropic, beta_async_tool
from anthropic.types import MessageParam, ToolParam
from pydantic import BaseModel

from tests.api.harness import MODEL, Json, in_process, live_server, make_app
from tests.api.message_types import COUNT, MESSAGES, check_order, stream_events
from tests.api.response_types import prompt_text
from tests.api.tool_chats import call_text, says
from tests.doubles import ScriptedEngine, one_by_one

WEATHER: ToolParam = {
    "name": "weather",
    "description": "Weather of a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
QUESTION: MessageParam = {"role": "user", "content": "How warm is it in Rome?"}


def sdk(url: str) -> AsyncAnthropic:
    return AsyncAnthropic(base_url=url, api_key="none", max_retries=0)


async def test_the_tool_runner() -> None:
    """It asks for a thread first, and goes on without one where it is told that there are none."""

    @beta_async_tool
    async def weather(city: str) -> str:
        """Weather of a city."""
        engine.steps = one_by_one("18 °C.")
        return f"{city}: 18 degrees"

    engine = says(one_by_one(call_text()))
    async with live_server(engine) as url, sdk(url) as client:
        runner = client.beta.messages.tool_runner(
            model=MODEL,
            max_tokens=200,
            tools=[weather],
            messages=[{"role": "user", "content": "How warm is it in Rome?"}],
        )
        last = await runner.until_done()
    assert last.content[0].type == "text" and last.content[0].text == "18 °C."
    assert "Rom 🙂: 18 degrees" in prompt_text(engine)


async def test_a_tools_round_trip() -> None:
    engine = says(one_by_one(f"Let me see.\n{call_text()}"))
    async with live_server(engine) as url, sdk(url) as client:
        message = await client.messages.create(
            model=MODEL, max_tokens=200, tools=[WEATHER], messages=[QUESTION]
        )
        assert message.stop_reason == "tool_use"
        call = message.content[-1]
        assert call.type == "tool_use"
        assert (call.name, call.input) == ("weather", {"city": "Rom 🙂"})
        engine.steps = one_by_one("18 °C.")
        final = await client.messages.create(
            model=MODEL,
            max_tokens=200,
            tools=[WEATHER],
            messages=[
                QUESTION,
                {"role": "assistant", "content": message.content},
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": call.id, "content": "18 degrees"}
                    ],
                },
            ],
        )
        assert final.stop_reason == "end_turn"
    prompt = prompt_text(engine)
    assert '{"name": "weather", "arguments": {"city": "Rom 🙂"}}' in prompt
    assert "18 degrees" in prompt


async def test_a_call_in_the_stream_helper() -> None:
    engine = says(one_by_one(call_text(arguments='{"city": "Rom", "days": [1, {"a": null}]}')))
    async with live_server(engine) as url, sdk(url) as client:
        async with client.messages.stream(
            model=MODEL, max_tokens=200, tools=[WEATHER], messages=[QUESTION]
        ) as stream:
            snapshots = [event.snapshot async for event in stream if event.type == "input_json"]
            final = await stream.get_final_message()
    (call,) = final.content
    assert call.type == "tool_use"
    assert snapshots[-1] == call.input == {"city": "Rom", "days": [1, {"a": None}]}


class City(BaseModel):
    name: str
    population: int


async def test_structured_output() -> None:
    engine = says(one_by_one('{"name": "Rome", "population": 3}'))
    async with live_server(engine) as url, sdk(url) as client:
        message = await client.messages.parse(
            model=MODEL, max_tokens=200, messages=[QUESTION], output_format=City
        )
    assert message.parsed_output == City(name="Rome", population=3)
    grammar = engine.requests[0].params.grammar
    assert grammar is not None
    assert set(json.loads(grammar.text)["properties"]) == {"name", "population"}


# What Claude Code sends, in its shape.

HEADERS = {
    "accept": "application/json",
    "anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14,a-new-one-2030-01-01",
    "anthropic-dangerous-direct-browser-access": "true",
    "anthropic-version": "2023-06-01",
    "authorization": "Bearer key",
    "user-agent": "claude-cli/2.0.0 (external, cli)",
    "x-app": "cli",
    "x-stainless-arch": "x64",
    "x-stainless-helper-method": "stream",
    "x-stainless-lang": "js",
    "x-stainless-retry-count": "0",
    "x-stainless-timeout": "600",
}
EPHEMERAL = {"cache_control": {"type": "ephemeral"}}


def tools() -> list[Json]:
    return [
        {
            "name": f"mcp__{'server' * 16}__tool_{number}" if number else "Bash",
            "description": "Runs it. " * 3,
            "input_schema": {
                "$schema": "https://json-schema.org/draft/2020-12/schema",
                "type": "object",
                "properties": {"command": {"type": "string", "description": "What to run"}},
                "required": ["command"],
                "additionalProperties": False,
            },
        }
        for number in range(60)
    ]


def claude_code(**fields: Any) -> Json:
    remind = "<system-reminder>\nToday is Monday.\n</system-reminder>"
    return {
        "model": MODEL,
        "max_tokens": 32_000,
        "temperature": 1,
        "stream": True,
        "metadata": {"user_id": json.dumps({"device_id": "a" * 64, "session_id": "b"})},
        "system": [
            {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.0;"},
            {"type": "text", "text": "You are Claude Code.", **EPHEMERAL},
            {
                "type": "text",
                "text": "Be concise.",
                "cache_control": {"type": "ephemeral", "ttl": "1h"},
            },
        ],
        "tools": tools(),
        "thinking": {"type": "enabled", "budget_tokens": 31_999},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "medium"},
        "messages": [
            {
                "role": "user",
                "content": [{"type": "text", "text": remind}, {"type": "text", "text": "ls"}],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "A list.", "signature": "abc"},
                    {
                        "type": "tool_use",
                        "id": "toolu_01A",
                        "name": "Bash",
                        "input": {"command": "ls"},
                    },
                ],
            },
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "toolu_01A",
                        "content": "<tool_use_error>none</tool_use_error>",
                        "is_error": True,
                        **EPHEMERAL,
                    }
                ],
            },
        ],
        **fields,
    }


async def test_what_claude_code_sends() -> None:
    call = call_text("Bash", '{"command": "ls -a"}')
    engine = ScriptedEngine(one_by_one(f"I'll look.\n{call}"), max_model_len=50_000)
    async with in_process(make_app(engine)) as client:
        assert (await client.head("/", headers=HEADERS)).status_code == 200
        response = await client.post(f"{MESSAGES}?beta=true", json=claude_code(), headers=HEADERS)
        counted = await client.post(
            f"{COUNT}?beta=true", json=without(claude_code(), "max_tokens"), headers=HEADERS
        )
    assert response.status_code == counted.status_code == 200, response.text
    found = stream_events(response.text)
    check_order(found)
    assert found[-2]["delta"]["stop_reason"] == "tool_use"
    usage = found[-2]["usage"]
    assert (
        counted.json()["input_tokens"] == usage["input_tokens"] + usage["cache_read_input_tokens"]
    )
    prompt = prompt_text(engine)
    assert "server__tool_59" in prompt
    assert "Error: <tool_use_error>" in prompt


async def test_claude_codes_small_requests() -> None:
    """A title for the conversation, and a probe of whether it may ask at all."""
    title = {"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]}
    engine = ScriptedEngine(one_by_one('{"title": "a"}'), max_model_len=50_000)
    bodies = (
        claude_code(tools=[], thinking={"type": "disabled"}, context_management=None),
        claude_code(
            tools=[],
            thinking=None,
            output_config={"format": {"type": "json_schema", "schema": title}},
        ),
        {"model": MODEL, "max_tokens": 1, "messages": [{"role": "user", "content": "quota"}]},
    )
    async with in_process(make_app(engine)) as client:
        for body in bodies:
            response: httpx.Response = await client.post(MESSAGES, json=body, headers=HEADERS)
            assert response.status_code == 200, response.text


def without(body: Json, *fields: str) -> Json:
    return {field: value for field, value in body.items() if field not in fields}
