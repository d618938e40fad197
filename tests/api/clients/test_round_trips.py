"""Every kind of answer, dumped in every way that OpenAI's client has, can be sent back as history,
and the model then sees the same prompt whichever way it was."""

import json
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from openai import AsyncOpenAI, pydantic_function_tool
from openai.types.chat import ChatCompletionChunk
from pydantic import BaseModel

from tests.api.harness import MODEL, Json, in_process, make_app
from tests.api.response_types import prompt_text
from tests.api.tool_chats import CLOCK, ROME, WEATHER, call_text, says
from tests.doubles import EOS_ID, ScriptedEngine, ids, one_by_one

DUMPS: dict[str, Callable[[Any], Any]] = {
    "the object itself": lambda value: value,
    "model_dump": lambda value: value.model_dump(),
    "model_dump by alias": lambda value: value.model_dump(by_alias=True),
    "model_dump exclude_none": lambda value: value.model_dump(exclude_none=True),
    "model_dump exclude_unset": lambda value: value.model_dump(exclude_unset=True),
    "model_dump json": lambda value: value.model_dump(mode="json"),
    "model_dump_json": lambda value: json.loads(value.model_dump_json()),
    "to_dict": lambda value: value.to_dict(),
    "to_dict all": lambda value: value.to_dict(exclude_unset=False),
    "to_json": lambda value: json.loads(value.to_json()),
}
QUESTION: Any = {"role": "user", "content": "hi"}
THANKS: Any = {"role": "user", "content": "thanks"}


class City(BaseModel):
    city: str


TYPED = pydantic_function_tool(City, name="weather")


@asynccontextmanager
async def sdk(engine: ScriptedEngine) -> AsyncGenerator[AsyncOpenAI]:
    """OpenAI's client of an app in this process."""
    async with in_process(make_app(engine)) as client:
        http: Any = client  # the client's own httpx goes by another name
        yield AsyncOpenAI(base_url="http://test/v1", api_key="none", http_client=http)


@dataclass(frozen=True, slots=True)
class Case:
    text: str
    fields: Json = field(default_factory=dict[str, Any])
    """Fields of the request."""
    is_cut: bool = False
    """It ends where `max_tokens` does."""

    def engine(self) -> ScriptedEngine:
        steps: Sequence[Sequence[int]] = one_by_one(self.text)
        return says([ids(self.text)] if self.is_cut else steps)


TOOLS: Json = {"tools": [WEATHER, CLOCK]}
CALLS = f"Well. {call_text()}\n{call_text('clock', '{}')}"
CASES: dict[str, Case] = {
    "text": Case("Grüße"),
    "nothing": Case(""),
    "logprobs": Case("é", {"logprobs": True, "top_logprobs": 2}),
    "token ids": Case("é", {"return_token_ids": True}),
    "a call": Case(call_text(), TOOLS),
    "text and calls": Case(CALLS, TOOLS),
    "a cut call": Case(call_text()[:60], TOOLS, is_cut=True),
    "cut before the call": Case(call_text()[:15], {**TOOLS, "tool_choice": "required"}, True),
}


async def send_chat(client: AsyncOpenAI, message: Any, call_ids: Sequence[str]) -> None:
    results = [{"role": "tool", "tool_call_id": each, "content": "ok"} for each in call_ids]
    messages: Any = [QUESTION, message, *results, THANKS]
    await client.chat.completions.create(model=MODEL, messages=messages)


async def check_chat(client: AsyncOpenAI, engine: ScriptedEngine, message: Any) -> None:
    """The message, sent back in every way."""
    calls = message.tool_calls or []
    plain: Json = {"role": "assistant", "content": message.content}
    if calls:
        plain["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.function.name, "arguments": call.function.arguments},
            }
            for call in calls
        ]
    call_ids = [call.id for call in calls]
    await send_chat(client, plain, call_ids)
    expected = prompt_text(engine)
    for name, dump in DUMPS.items():
        await send_chat(client, dump(message), call_ids)
        assert prompt_text(engine) == expected, name


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_chat(case: Case) -> None:
    engine = case.engine()
    async with sdk(engine) as client:
        answer = await client.chat.completions.create(
            model=MODEL, messages=[QUESTION], n=2, extra_body=case.fields
        )
        for choice in answer.choices:
            await check_chat(client, engine, choice.message)


# The client's own: its message types don't know the class that it has parsed into them.
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
async def test_parsed_chat() -> None:
    engine = says(one_by_one(ROME))
    async with sdk(engine) as client:
        answer = await client.chat.completions.parse(
            model=MODEL,
            messages=[QUESTION],
            response_format=City,
        )
        message = answer.choices[0].message
        assert message.parsed == City(city="Rom 🙂")
        await check_chat(client, engine, message)


async def test_parsed_arguments_of_a_chat() -> None:
    engine = says(one_by_one(call_text()))
    async with sdk(engine) as client:
        answer = await client.chat.completions.parse(
            model=MODEL,
            messages=[QUESTION],
            tools=[TYPED],
        )
        message = answer.choices[0].message
        assert message.tool_calls
        assert message.tool_calls[0].function.parsed_arguments == City(city="Rom 🙂")
        await check_chat(client, engine, message)


def collected(chunks: Sequence[ChatCompletionChunk]) -> Json:
    """What people write who put a stream's deltas together: everything that any of them had."""
    message: Json = {}
    for chunk in chunks:
        for key, value in chunk.choices[0].delta.model_dump().items():
            if key == "tool_calls":
                for part in value or ():
                    add_call(message.setdefault("tool_calls", []), part)
            elif isinstance(value, str) and key != "role":
                message[key] = (message.get(key) or "") + value
            else:
                message[key] = message.get(key) or value
    return message


def add_call(calls: list[Json], part: Json) -> None:
    if part["index"] == len(calls):
        calls.append(part)
        return
    function = calls[part["index"]]["function"]
    function["arguments"] += part["function"]["arguments"]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_streamed_chat(case: Case) -> None:
    engine = case.engine()
    async with sdk(engine) as client:
        stream: Any = await client.chat.completions.create(
            model=MODEL,
            messages=[QUESTION],
            stream=True,
            extra_body=case.fields,
        )
        message = collected([chunk async for chunk in stream])
        calls = message.get("tool_calls", [])
        assert [call["index"] for call in calls] == list(range(len(calls)))
        await send_chat(client, message, [call["id"] for call in calls])
        async with client.chat.completions.stream(
            model=MODEL,
            messages=[QUESTION],
            extra_body=case.fields,
        ) as helper:
            async for _ in helper:
                pass
            message = helper.current_completion_snapshot.choices[0].message
        await check_chat(client, engine, message)


async def test_what_other_servers_and_clients_add() -> None:
    """Extra fields come from models that think, from searches, and from litellm."""
    engine = says(one_by_one("a"))
    message = {
        "role": "assistant",
        "content": [{"type": "text", "text": "So"}, {"type": "refusal", "refusal": "no"}],
        "refusal": None,
        "annotations": [{"type": "url_citation", "url_citation": {"url": "x"}}],
        "audio": None,
        "function_call": None,
        "reasoning_content": "Hm",
        "reasoning": "Hm",
        "provider_specific_fields": {"a": 1},
        "tool_calls": None,
    }
    async with sdk(engine) as client:
        await send_chat(client, message, [])
    assert prompt_text(engine) == "user:hi\nassistant:So\nno\nuser:thanks\n"


async def test_arguments_as_an_object() -> None:
    engine = says(one_by_one("a"))
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": {"a": "é"}}}
    item = {"type": "function_call", "call_id": "c", "name": "f", "arguments": {"a": "é"}}
    result = {"type": "function_call_output", "call_id": "c", "output": []}
    async with sdk(engine) as client:
        await send_chat(client, {"role": "assistant", "content": [], "tool_calls": [call]}, ["c"])
        assert '"arguments": {"a": "é"}' in prompt_text(engine)
        given: Any = [QUESTION, item, result, THANKS]
        await client.responses.create(model=MODEL, input=given)
        assert '"arguments": {"a": "é"}' in prompt_text(engine)


@pytest.mark.parametrize("content", [None, [], ""])
@pytest.mark.parametrize("role", ["user", "assistant", "system"])
async def test_a_content_that_says_nothing(role: str, content: object) -> None:
    engine = says(one_by_one("a"))
    silent: Any = {"role": role, "content": content}
    async with sdk(engine) as client:
        await send_chat(client, silent, [])
        assert prompt_text(engine) == f"user:hi\n{role}:\nuser:thanks\n"
        await client.responses.create(model=MODEL, input=[QUESTION, silent, THANKS])
        assert prompt_text(engine) == f"user:hi\n{role}:\nuser:thanks\n"


# Responses.

FLAT: Json = {
    "tools": [
        {"type": "function", "strict": False, **WEATHER["function"]},
        {"type": "function", "strict": False, **CLOCK["function"]},
    ]
}
SCHEMA: Json = {"type": "object", "properties": {"city": {"type": "string"}}}
FORMAT: Json = {"type": "json_schema", "name": "city", "schema": SCHEMA}
RESPONSE_CASES: dict[str, Case] = {
    "a schema": Case(ROME, {"text": {"format": FORMAT}}),
    "text": Case("Grüße", {"metadata": {"a": "b"}, "truncation": "auto"}),
    "nothing": Case(""),
    "logprobs": Case("é", {"include": ["message.output_text.logprobs"], "top_logprobs": 2}),
    "token ids": Case("é", {"return_token_ids": True}),
    "a call": Case(call_text(), FLAT),
    "text and calls": Case(CALLS, FLAT),
    "a cut call": Case(call_text()[:60], FLAT, is_cut=True),
    "cut before the call": Case(call_text()[:15], {**FLAT, "tool_choice": "required"}, True),
}


def results(call_ids: Sequence[str]) -> list[Any]:
    return [{"type": "function_call_output", "call_id": each, "output": "ok"} for each in call_ids]


async def send_items(client: AsyncOpenAI, items: Sequence[Any], call_ids: Sequence[str]) -> None:
    given = [QUESTION, *items, *results(call_ids), THANKS]
    await client.responses.create(model=MODEL, input=given)


async def check_response(client: AsyncOpenAI, engine: ScriptedEngine, response: Any) -> None:
    """Its output and the request's fields in it, sent back in every way."""
    calls = [item for item in response.output if item.type == "function_call"]
    call_ids = [call.call_id for call in calls]
    await client.responses.create(
        model=MODEL,
        previous_response_id=response.id,
        input=[*results(call_ids), THANKS],
    )
    expected = prompt_text(engine)
    for name, dump in DUMPS.items():
        await send_items(client, [dump(item) for item in response.output], call_ids)
        assert prompt_text(engine) == expected, name
        whole = dump(response)
        if isinstance(whole, dict):
            await send_items(client, whole["output"], call_ids)
            assert prompt_text(engine) == expected, name
            await send_request_again(client, whole)


REQUEST_FIELDS = (
    "instructions max_output_tokens max_tool_calls metadata parallel_tool_calls prompt_cache_key"
    " reasoning safety_identifier service_tier store temperature text tool_choice tools"
    " top_logprobs top_p truncation user presence_penalty frequency_penalty background"
).split()


async def send_request_again(client: AsyncOpenAI, response: Json) -> None:
    """With the fields that the response says it was made with."""
    fields = {name: response[name] for name in REQUEST_FIELDS if name in response}
    fields["include"] = ["message.output_text.logprobs"]
    await client.post("/responses", body={"input": "hi", **fields}, cast_to=object)


@pytest.mark.parametrize("case", RESPONSE_CASES.values(), ids=RESPONSE_CASES)
async def test_responses(case: Case) -> None:
    engine = case.engine()
    async with sdk(engine) as client:
        response = await client.responses.create(
            model=MODEL,
            input=[QUESTION],
            extra_body=case.fields,
        )
        await check_response(client, engine, response)
        async with client.responses.stream(
            model=MODEL,
            input=[QUESTION],
            extra_body=case.fields,
        ) as stream:
            events = [event async for event in stream]
        ended: Any = events[-1]
        await check_response(client, engine, ended.response)


async def test_parsed_responses() -> None:
    engine = says(one_by_one(ROME))
    async with sdk(engine) as client:
        response = await client.responses.parse(model=MODEL, input="hi", text_format=City)
        assert response.output_parsed == City(city="Rom 🙂")
        await check_response(client, engine, response)
    engine = says(one_by_one(call_text()))
    tool: Any = {"type": "function", **TYPED["function"]}
    async with sdk(engine) as client:
        response = await client.responses.parse(model=MODEL, input="hi", tools=[tool])
        (call,) = response.output
        assert call.type == "function_call"
        assert call.parsed_arguments is not None
        await check_response(client, engine, response)


async def test_listed_items() -> None:
    """`input_items` of a conversation of every kind of item."""
    engine = says([*one_by_one(CALLS)[:-1], [EOS_ID]])
    thought: Any = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"}
    async with sdk(engine) as client:
        first: Any = await client.responses.create(
            model=MODEL,
            input=[{"role": "system", "content": "So"}, QUESTION, thought],
            extra_body=FLAT,
        )
        outputs = results([item.call_id for item in first.output if item.type == "function_call"])
        second = await client.responses.create(
            model=MODEL, previous_response_id=first.id, input=[*outputs, THANKS]
        )
        expected = prompt_text(engine)
        items = [item async for item in client.responses.input_items.list(second.id, order="asc")]
        assert {item.type for item in items} == {
            *("message", "reasoning", "function_call", "function_call_output"),
        }
        for name, dump in DUMPS.items():
            again: Any = [dump(item) for item in items]
            await client.responses.create(model=MODEL, input=again)
            assert prompt_text(engine) == expected, name
