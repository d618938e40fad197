"""`langchain-openai`'s `ChatOpenAI`, unchanged, against a live server."""

import asyncio
from collections.abc import Callable
from typing import Any, Literal

from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, SecretStr

from server.engine.types import Request
from tests.api.clients.test_tool_sdk import TurnsEngine
from tests.api.harness import MODEL, live_server
from tests.api.tool_chats import call_text, says
from tests.doubles import ScriptedEngine, one_by_one

TEXT = "Grüße 🙂"
OSLO = '{"city": "Oslo"}'


@tool
def weather(city: str) -> str:
    """Weather of a city"""
    return "25 °C" if city.startswith("Rom") else "-3 °C"


class Pet(BaseModel):
    """What is asked for."""

    kind: Literal["cat", "dog"]
    name: str


def chat(url: str, **fields: Any) -> ChatOpenAI:
    return ChatOpenAI(
        model=MODEL, base_url=f"{url}/v1", api_key=SecretStr("none"), max_retries=0, **fields
    )


async def ask(engine: ScriptedEngine, use: Callable[[str], AIMessage]) -> AIMessage:
    """What a synchronous user of the server at an address gets."""
    async with live_server(engine) as url:
        return await asyncio.to_thread(use, url)


def the_request(engine: ScriptedEngine) -> Request:
    (request,) = engine.requests
    return request


async def test_invoke() -> None:
    engine = says(one_by_one(TEXT))
    answer = await ask(
        engine, lambda url: chat(url, temperature=0.5, seed=7, max_tokens=20).invoke("hi")
    )
    assert isinstance(answer, AIMessage)
    assert answer.content == TEXT
    num_tokens = len(TEXT.encode()) + 1
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] == num_tokens
    assert answer.response_metadata["finish_reason"] == "stop"
    assert answer.response_metadata["model_name"] == MODEL
    params = the_request(engine).params
    assert (params.temperature, params.seed, params.max_tokens) == (0.5, 7, 20)


async def test_stream() -> None:
    """Its usage too, which the client asks for by itself."""
    engine = says(one_by_one(TEXT))
    async with live_server(engine) as url:
        found = [part async for part in chat(url, stream_usage=True).astream("hi")]
    assert "".join(str(part.content) for part in found) == TEXT
    assert len(found) > len(TEXT)
    whole = found[0]
    for part in found[1:]:
        whole += part
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["output_tokens"] == len(TEXT.encode()) + 1


async def test_a_named_tool_is_called() -> None:
    """The grammar alone makes it a call: the engine gets one."""
    engine = says(one_by_one(call_text(arguments=OSLO)))
    async with live_server(engine) as url:
        model = chat(url).bind_tools([weather], tool_choice="weather")
        answer = await model.ainvoke("hi")
    (call,) = answer.tool_calls
    assert (call["name"], call["args"]) == ("weather", {"city": "Oslo"})
    grammar = the_request(engine).params.grammar
    assert grammar is not None
    assert grammar.kind == "structural_tag"


async def test_a_streamed_call() -> None:
    engine = says(one_by_one(f"Hm. {call_text(arguments=OSLO)}"))
    async with live_server(engine) as url:
        model = chat(url).bind_tools([weather], strict=True)
        found = [part async for part in model.astream("hi")]
    whole = found[0]
    for part in found[1:]:
        whole += part
    assert isinstance(whole, AIMessageChunk)
    assert whole.content == "Hm. "
    (call,) = whole.tool_calls
    assert (call["name"], call["args"]) == ("weather", {"city": "Oslo"})
    assert (
        sum(bool(part.tool_call_chunks) for part in found if isinstance(part, AIMessageChunk)) > 2
    )


async def test_the_tool_loop() -> None:
    """Two calls, their results, and an answer."""
    engine = TurnsEngine([], max_model_len=10_000)
    async with live_server(engine) as url:
        model = chat(url).bind_tools([weather])
        messages: list[Any] = [HumanMessage("Weather?")]
        first = await model.ainvoke(messages)
        messages.append(first)
        for call in first.tool_calls:
            result = weather.invoke(call)
            assert isinstance(result, ToolMessage)
            messages.append(result)
        second = await model.ainvoke(messages)
    assert len(first.tool_calls) == 2
    assert second.content == "Warm in Rom, cold in Oslo."
    assert engine.prompt.index("25 °C") < engine.prompt.index("-3 °C")


async def test_structured_output() -> None:
    engine = says(one_by_one('{"kind": "cat", "name": "Tom"}'))
    async with live_server(engine) as url:
        model = chat(url).with_structured_output(Pet, method="json_schema")
        answer = await model.ainvoke("hi")
    assert answer == Pet(kind="cat", name="Tom")
    grammar = the_request(engine).params.grammar
    assert grammar is not None
    assert grammar.kind == "json_schema"
    assert '"enum": ["cat", "dog"]' in grammar.text


async def test_structured_output_by_a_tool() -> None:
    engine = says(one_by_one(call_text("Pet", '{"kind": "dog", "name": "Rex"}')))
    async with live_server(engine) as url:
        model = chat(url).with_structured_output(Pet, method="function_calling", strict=True)
        answer = await model.ainvoke("hi")
    assert answer == Pet(kind="dog", name="Rex")


async def test_json_mode() -> None:
    engine = says(one_by_one('{"kind": "dog", "name": "Rex"}'))
    async with live_server(engine) as url:
        answer = await chat(url).with_structured_output(Pet, method="json_mode").ainvoke("hi")
    assert answer == Pet(kind="dog", name="Rex")
    grammar = the_request(engine).params.grammar
    assert grammar is not None
    assert grammar.kind == "json_object"
