"""`/v1/messages`: tools, calls, and structured output."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.api.middleware.request import DROPPED_TOOLS_HEADER
from server.engine.types import Grammar
from tests.api.harness import CHAT, INFO, Json, in_process, make_app
from tests.api.message_types import (
    CLOCK,
    MESSAGES,
    WEATHER,
    assert_message_error,
    check_order,
    message_body,
    parse,
    stream_events,
    streamed,
    tool_message,
)
from tests.api.response_types import prompt_of
from tests.api.tool_chats import call_text, says, tool_body
from tests.doubles import ScriptedEngine, ids, one_by_one


async def ask(text: str, **fields: Any) -> Json:
    """The answer, which is the same in a stream."""
    engine = says(one_by_one(text))
    body = tool_message(**fields)
    async with in_process(make_app(engine)) as client:
        whole = await client.post(MESSAGES, json=body)
        stream = await client.post(MESSAGES, json={**body, "stream": True})
    assert whole.status_code == 200, whole.text
    parse(whole.json())
    found = stream_events(stream.text)
    check_order(found)
    assert without_ids(streamed(found)) == without_ids(whole.json())
    return whole.json()


def without_ids(message: Json) -> Json:
    return {**message, "id": "", "content": [{**b, "id": ""} for b in message["content"]]}


async def asked(**fields: Any) -> ScriptedEngine:
    engine = says(one_by_one("a"))
    async with in_process(make_app(engine)) as client:
        response = await client.post(MESSAGES, json=tool_message(**fields))
    assert response.status_code == 200, response.text
    return engine


async def grammar_of(**fields: Any) -> Grammar | None:
    return (await asked(**fields)).requests[0].params.grammar


async def chat_grammar(**fields: Any) -> Grammar | None:
    engine = says(one_by_one("a"))
    async with in_process(make_app(engine)) as client:
        response = await client.post(CHAT, json=tool_body(**fields))
    assert response.status_code == 200, response.text
    return engine.requests[0].params.grammar


async def test_text_and_calls() -> None:
    answer = await ask(f"Let me see.\n{call_text()}\n{call_text('clock', '{}')}")
    text, weather, clock = answer["content"]
    assert text["text"].strip() == "Let me see."
    assert (weather["name"], weather["input"]) == ("weather", {"city": "Rom 🙂"})
    assert (clock["name"], clock["input"]) == ("clock", {})
    assert weather["id"] != clock["id"]
    assert weather["id"].startswith("toolu_")
    assert answer["stop_reason"] == "tool_use"


@pytest.mark.parametrize("tool_choice", [{"type": "none"}, None])
async def test_text_alone(tool_choice: Json | None) -> None:
    answer = await ask("Hello.", tool_choice=tool_choice)
    assert answer["content"] == [{"type": "text", "text": "Hello."}]
    assert answer["stop_reason"] == "end_turn"


async def test_a_call_that_is_cut_short() -> None:
    begun = call_text().split(' 🙂"')[0].replace('"Rom', '"zip": 1, "name": "Ro')
    engine = says([ids(begun)])
    body = tool_message(max_tokens=len(ids(begun)))
    async with in_process(make_app(engine)) as client:
        answer = (await client.post(MESSAGES, json=body)).json()
    assert answer["stop_reason"] == "max_tokens"
    (block,) = answer["content"]
    assert block["type"] == "tool_use"


async def test_input_that_is_no_json_stands_in_it_as_text() -> None:
    engine = says(one_by_one(call_text(arguments='{"city": Rome}')))
    async with in_process(make_app(engine)) as client:
        answer = (await client.post(MESSAGES, json=tool_message())).json()
    (block,) = answer["content"]
    assert block["input"].keys() == {"INVALID_JSON"}
    assert block["input"]["INVALID_JSON"].startswith('{"city": Rome}')


async def test_the_choice() -> None:
    assert await grammar_of() is None
    assert await grammar_of(tool_choice={"type": "auto"}) is None
    for choice, chat in (
        ({"type": "any"}, {"tool_choice": "required"}),
        (
            {"type": "any", "disable_parallel_tool_use": True},
            {"tool_choice": "required", "parallel_tool_calls": False},
        ),
        ({"type": "auto", "disable_parallel_tool_use": True}, {"parallel_tool_calls": False}),
        (
            {"type": "tool", "name": "clock"},
            {"tool_choice": {"type": "function", "function": {"name": "clock"}}},
        ),
    ):
        found = await grammar_of(tool_choice=choice)
        assert found is not None
        assert found == await chat_grammar(**chat)


async def test_strict_tools() -> None:
    assert await grammar_of(tools=[{**WEATHER, "strict": True}]) is not None


async def test_what_the_model_is_shown_of_a_tool() -> None:
    examples = [{"city": "Rom 🙂"}, {"city": "Oslo"}]
    engine = await asked(tools=[{**WEATHER, "input_examples": examples}, CLOCK])
    prompt = prompt_of(engine.requests[0].prompt_token_ids)
    assert "Weather of a city" in prompt
    assert (
        json.dumps(json.dumps(examples[0], ensure_ascii=False), ensure_ascii=False)[1:-1] in prompt
    )
    assert '"clock"' in prompt


SCHEMA: Json = {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}


@pytest.mark.parametrize(
    "fields",
    [
        {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
        {"output_format": {"type": "json_schema", "schema": SCHEMA}},
        {"json_schema": SCHEMA},
    ],
)
async def test_structured_output(fields: Json) -> None:
    found = await grammar_of(tools=None, **fields)
    assert found == Grammar("json_schema", json.dumps(SCHEMA))


def of_format(schema: Json) -> Json:
    return {"format": {"type": "json_schema", "schema": schema}}


REFUSED: list[tuple[Json, str]] = [
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0.type: "),
    ({"tools": [WEATHER, {"type": "bash_20250124", "name": "bash"}]}, "tools.1.type: "),
    ({"tools": [WEATHER, WEATHER]}, "tools.1.name: "),
    ({"tools": [{**WEATHER, "input_schema": {"type": "string"}}]}, "tools.0.input_schema.type: "),
    ({"tools": [{**WEATHER, "name": "a b"}]}, "tools.0.name: "),
    ({"tools": [{**WEATHER, "defer_loading": True}]}, "tools.0.defer_loading: "),
    ({"tools": [{**WEATHER, "parameters": {}}]}, "tools.0.parameters: unknown field"),
    ({"tools": [{**WEATHER, "input_examples": [{"a": "\ud800"}]}]}, "tools.0.input_examples.0: "),
    ({"tool_choice": {"type": "tool", "name": "f"}}, "tool_choice.name: tools has no"),
    ({"tool_choice": {"type": "required"}}, "tool_choice.type: "),
    ({"tools": None, "tool_choice": {"type": "any"}}, "tool_choice: needs tools"),
    (
        {"tools": None, "output_config": of_format({"type": "no"})},
        "output_config.format.schema.type",
    ),
    ({"output_format": {"type": "json_object"}}, "output_format.type: "),
    (
        {
            "output_config": of_format({}),
            "output_format": {"type": "json_schema", "schema": {"type": "object"}},
        },
        "output_format: can't be combined",
    ),
    ({"output_config": of_format({}), "regex": "a"}, "regex: can't be combined with output_config"),
]


@pytest.mark.parametrize(("fields", "begin"), REFUSED)
async def test_refused(fields: Json, begin: str) -> None:
    engine = says([])
    async with in_process(make_app(engine)) as client:
        response = await client.post(
            MESSAGES,
            content=json.dumps(tool_message(**fields)),
            headers={"content-type": "application/json"},
        )
    assert_message_error(response, 400, "invalid_request_error", begin)
    assert engine.requests == []


async def test_other_tools_can_be_dropped() -> None:
    app = make_app(says(one_by_one("a")), info=replace(INFO, drops_other_tools=True))
    tools = [{"type": "web_search_20250305", "name": "web_search", "max_uses": 3}, WEATHER]
    async with in_process(app) as client:
        response = await client.post(MESSAGES, json=message_body(tools=tools))
    assert response.status_code == 200
    assert response.headers[DROPPED_TOOLS_HEADER] == "web_search_20250305"


@given(
    parts=st.lists(
        st.one_of(
            st.text("ab {}<", max_size=6),
            st.builds(
                lambda name, given: call_text(name, json.dumps(given)),
                st.sampled_from(["weather", "clock", "other"]),
                st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3)),
            ),
        ),
        max_size=4,
    )
)
@settings(max_examples=25, deadline=None)
async def test_any_answer_streams_in_order(parts: list[str]) -> None:
    await ask("".join(parts))
