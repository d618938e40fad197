"""Function tools and formats in `/v1/responses`: calls as items, streamed, enforced, sent back."""

import json
from collections.abc import AsyncGenerator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel

from server.api.generation.schema.tools import MAX_CALLS
from server.api.schema.fields import MAX_MESSAGES
from server.engine.outputs import RequestOutput
from server.engine.types import Grammar, Request
from tests.api.harness import MODEL, Json, assert_error, in_process, live_server, make_app, post
from tests.api.response_types import RESPONSES, ask, asked, kinds, prompt_of, prompt_text, stream
from tests.api.tool_chats import ROME, call_text, says
from tests.doubles import ScriptedEngine, one_by_one

PARAMETERS: Json = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}
WEATHER: Json = {
    "type": "function",
    "name": "weather",
    "description": "Weather of a city",
    "parameters": PARAMETERS,
    "strict": False,
}
CLOCK: Json = {"type": "function", "name": "clock", "strict": False}
TOOLS = [WEATHER, CLOCK]
TWO_CALLS = f"Sure. {call_text()}\n{call_text('clock', '{}')}"


def without_ids(items: list[Json]) -> list[Json]:
    return [{key: item[key] for key in item if key not in ("id", "call_id")} for item in items]


def call(name: str, arguments: str, status: str = "completed") -> Json:
    return {"type": "function_call", "name": name, "arguments": arguments, "status": status}


async def test_text_and_calls_are_items() -> None:
    _, response = await asked(says=TWO_CALLS, tools=TOOLS)
    message, *calls = without_ids(response["output"])
    assert message["content"][0]["text"].strip() == "Sure."
    assert calls == [call("weather", ROME), call("clock", "{}")]
    first, second = response["output"][1:]
    assert first["id"].startswith("fc_")
    assert first["call_id"].startswith("call_")
    assert first["call_id"] != second["call_id"]
    assert response["tools"] == [
        WEATHER,
        {**CLOCK, "description": None, "parameters": None},
    ]


async def test_a_call_alone_has_no_message() -> None:
    _, response = await asked(says=call_text(), tools=TOOLS)
    assert without_ids(response["output"]) == [call("weather", ROME)]


async def test_events_of_calls() -> None:
    found = await stream(make_app(says(one_by_one(TWO_CALLS))), tools=TOOLS)
    kept = [kind for kind in kinds(found) if not kind.endswith(".delta")]
    of_call = ["output_item.added", "function_call_arguments.done", "output_item.done"]
    assert kept == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *("output_text.done", "content_part.done", "output_item.done"),
        *of_call,
        *of_call,
        "completed",
    ]
    output = found[-1]["response"]["output"]
    for index, item in enumerate(output):
        events = [event for event in found if event.get("output_index") == index]
        assert events[0]["item"]["id"] == events[-1]["item"]["id"] == item["id"]
        assert events[-1]["item"] == item
        assert {event["item_id"] for event in events[1:-1]} == {item["id"]}
        deltas = "".join(event.get("delta", "") for event in events)
        text = item["arguments"] if index else item["content"][0]["text"]
        assert deltas == text
    added = [event["item"] for event in found if event["type"] == "response.output_item.added"]
    assert [item["status"] for item in added] == ["in_progress"] * 3
    assert [item.get("arguments", "") for item in added] == [""] * 3


async def test_a_call_that_is_cut() -> None:
    steps = one_by_one(call_text())[:52]
    found = await stream(make_app(says(steps)), tools=TOOLS)
    response = found[-1]["response"]
    assert response["status"] == "incomplete"
    (item,) = response["output"]
    assert item["status"] == "incomplete"
    assert item["arguments"]
    assert ROME.startswith(item["arguments"])


async def test_a_call_that_a_stop_string_cuts() -> None:
    _, response = await asked(says=call_text(), tools=TOOLS, stop=["🙂"])
    assert without_ids(response["output"]) == [call("weather", '{"city": "Rom ', "incomplete")]
    assert response["status"] == "completed"


async def test_logprobs_are_those_of_text() -> None:
    _, response = await asked(
        says=f"Hi{call_text()}", tools=TOOLS, include=["message.output_text.logprobs"]
    )
    entries = response["output"][0]["content"][0]["logprobs"]
    assert [entry["token"] for entry in entries][:2] == ["H", "i"]


async def test_calls_and_results_in_the_prompt() -> None:
    """Two calls after each other are one turn, with the text before them."""
    made: list[Json] = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "Well."},
        {"type": "function_call", "call_id": "1", "name": "weather", "arguments": '{"city":"A"}'},
        {"type": "function_call", "call_id": "2", "name": "clock", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "1", "output": "warm"},
        {
            "type": "function_call_output",
            "call_id": "2",
            "output": [{"type": "input_text", "text": "noon"}],
        },
    ]
    prompt, _ = await asked(made)
    assert prompt.startswith("user:Weather?\nassistant:Well.\n<tool_call>\n")
    assert prompt.count("assistant:") == 1
    assert prompt.index('"city": "A"') < prompt.index('"clock"')
    assert '{"name": "weather", "content": "warm"}' in prompt
    assert '{"name": "clock", "content": "noon"}' in prompt


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "name": "x"}}, "tool_choice.name"),
        (
            {
                "tools": TOOLS,
                "tool_choice": {
                    "type": "allowed_tools",
                    "mode": "auto",
                    "tools": [{"type": "function", "name": "x"}],
                },
            },
            "tool_choice.tools.0.name",
        ),
        ({"tools": [WEATHER, WEATHER]}, "tools.1.name"),
        ({"tools": [{**CLOCK, "parameters": {"type": "array"}}]}, "tools.0.parameters.type"),
        (
            {"input": [{"type": "function_call_output", "call_id": "1", "output": "a"}]},
            "input.0.call_id",
        ),
    ],
)
async def test_errors_name_this_apis_fields(fields: Json, param: str) -> None:
    engine = says(one_by_one("a"))
    response = await post(engine, RESPONSES, {"input": "hi", **fields})
    error = assert_error(response, 400, "invalid_value", param)
    assert error["message"].startswith(f"{param}: ")
    assert engine.requests == []


async def grammar_of(**fields: Any) -> Grammar | None:
    engine = says(one_by_one("a"))
    async with in_process(make_app(engine)) as client:
        await ask(client, **fields)
    return engine.requests[0].params.grammar


async def test_what_a_grammar_enforces() -> None:
    assert await grammar_of(tools=TOOLS) is None
    strict = [{key: value for key, value in WEATHER.items() if key != "strict"}]
    for fields in (
        {"tools": strict},  # strict by default
        {"tools": TOOLS, "tool_choice": "required"},
        {"tools": TOOLS, "tool_choice": {"type": "function", "name": "clock"}},
        {"tools": TOOLS, "parallel_tool_calls": False},
    ):
        found = await grammar_of(**fields)
        assert found is not None, fields
        assert found.kind == "structural_tag"
    assert await grammar_of(tools=strict, tool_choice="none") is None


async def test_formats() -> None:
    def text(**fields: object) -> Json:
        return {"format": fields}

    assert await grammar_of(text=text(type="text")) is None
    assert await grammar_of(text=text(type="json_object")) == Grammar("json_object", "")
    found = await grammar_of(text=text(type="json_schema", name="city", schema=PARAMETERS))
    assert found is not None
    assert (found.kind, json.loads(found.text)) == ("json_schema", PARAMETERS)
    _, response = await asked(
        text=text(type="json_schema", name="city", schema=PARAMETERS, strict=True)
    )
    assert response["text"]["format"] == {
        "type": "json_schema",
        "name": "city",
        "schema": PARAMETERS,
        "strict": True,
    }


class City(BaseModel):
    name: str


class TurnsEngine(ScriptedEngine):
    """Calls two functions at first, and then says what came back."""

    async def generate(self, request: Request) -> AsyncGenerator[RequestOutput, None]:
        oslo = '{"city": "Oslo"}'
        is_back = '"content": ' in prompt_of(request.prompt_token_ids)
        answer = "Warm, cold." if is_back else f"{call_text()}\n{call_text(arguments=oslo)}"
        self.steps = one_by_one(answer)
        async for output in super().generate(request):
            yield output


def sdk(url: str) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


@pytest.mark.parametrize("keeps", [False, True])
async def test_the_tool_loop(keeps: bool) -> None:
    """With the server's memory of the conversation, and with the client's."""
    engine = TurnsEngine([], max_model_len=10_000)
    items: list[Any] = [{"role": "user", "content": "Weather?"}]
    tools: Any = [WEATHER]
    async with live_server(engine) as url, sdk(url) as client:
        first = await client.responses.create(model=MODEL, input=items, tools=tools, store=keeps)
        results: list[Any] = []
        for item in first.output:
            assert item.type == "function_call"
            city = json.loads(item.arguments)["city"]
            output = "25 °C" if city.startswith("Rom") else "-3 °C"
            results.append(
                {"type": "function_call_output", "call_id": item.call_id, "output": output}
            )
        if keeps:
            second = await client.responses.create(
                model=MODEL, input=results, tools=tools, previous_response_id=first.id
            )
        else:
            given: list[Any] = [*items, *first.output, *results]
            second = await client.responses.create(model=MODEL, input=given, tools=tools)
    assert second.output_text == "Warm, cold."
    prompt = prompt_text(engine)
    assert '{"name": "weather", "content": "25 °C"}' in prompt
    assert prompt.index("25 °C") < prompt.index("-3 °C")


# The client's own, when it serialises what it has parsed.
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning")
async def test_parse_gives_objects() -> None:
    engine = says(one_by_one('{"name": "Rom"}'))
    async with live_server(engine) as url, sdk(url) as client:
        parsed = await client.responses.parse(model=MODEL, input="hi", text_format=City)
        assert parsed.output_parsed == City(name="Rom")
        async with client.responses.stream(model=MODEL, input="hi", text_format=City) as opened:
            final = await opened.get_final_response()
        assert final.output_parsed == City(name="Rom")
        # And what it gave can be sent back as it is.
        again: Any = [*parsed.output, {"role": "user", "content": "on"}]
        await client.responses.create(model=MODEL, input=again)
    grammar = engine.requests[0].params.grammar
    assert grammar is not None
    assert json.loads(grammar.text)["required"] == ["name"]


class Weather(BaseModel):
    """Weather of a city"""

    city: str


async def test_tools_of_the_stream_helper() -> None:
    engine = says(one_by_one(call_text("Weather")))
    tools = [openai.pydantic_function_tool(Weather)]
    flat: Any = [{"type": "function", **tool["function"]} for tool in tools]
    async with live_server(engine) as url, sdk(url) as client:
        async with client.responses.stream(model=MODEL, input="hi", tools=flat) as opened:
            snapshots = [
                event.snapshot
                async for event in opened
                if event.type == "response.function_call_arguments.delta"
            ]
            final = await opened.get_final_response()
    assert snapshots[-1] == ROME
    (item,) = final.output
    assert item.type == "function_call"
    assert item.name == "Weather"


async def test_more_calls_in_a_row_than_a_message_can_have() -> None:
    """Calls without a message between them are of one turn."""
    calls = [{**call("weather", "{}"), "call_id": f"call_{n}"} for n in range(MAX_CALLS + 1)]
    body = {"input": [{"role": "user", "content": "a"}, *calls]}
    response = await post(ScriptedEngine([]), RESPONSES, body)
    assert_error(response, 400, "invalid_value", "input.1")


async def test_longer_conversations_than_a_chat_can_have() -> None:
    items = [{"role": "user", "content": "a"}] * MAX_MESSAGES
    response = await post(ScriptedEngine([]), RESPONSES, {"input": items, "instructions": "b"})
    assert_error(response, 400, "invalid_value", "input")
