"""`litellm`, unchanged, against a live server.

At its import it reads a list of prices from the network, and it can send reports: both are off.
"""

import asyncio
import gc
import importlib
import json
import os
import warnings
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from tests.api.harness import MODEL, Json, live_server
from tests.api.test_tool_sdk import WEATHER, TurnsEngine, weather
from tests.api.tool_chats import call_text, choice, says
from tests.doubles import ScriptedEngine, one_by_one

# litellm's own models, which pydantic warns of.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Item 'summary' on TypedDict:UserWarning"),
    # It closes none of its clients.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Accessing the 'model_(computed_)?fields' attribute"),
]

TEXT = "Grüße 🙂"
HI: list[Json] = [{"role": "user", "content": "hi"}]


@pytest.fixture
async def litellm() -> AsyncGenerator[Any]:
    """The module, untyped: it is only partly annotated. Its clients go with each test."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    module: Any = importlib.import_module("litellm")
    module.telemetry = False
    module.disable_aiohttp_transport = True  # which leaves connections open, and warns of it
    module.suppress_debug_info = True
    yield module
    module.in_memory_llm_clients_cache.flush_cache()
    with warnings.catch_warnings():  # not in somebody else's test
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def server(url: str, **fields: object) -> Json:
    return {
        "model": f"openai/{MODEL}",
        "api_base": f"{url}/v1",
        "api_key": "none",
        "num_retries": 0,
        "messages": HI,
        **fields,
    }


async def test_completion(litellm: Any) -> None:
    engine = says(one_by_one(TEXT))
    async with live_server(engine) as url:
        asked = server(url, temperature=0.5, seed=7, max_tokens=20, extra_body={"top_k": 5})
        answer = await asyncio.to_thread(litellm.completion, **asked)
    assert answer.choices[0].message.content == TEXT
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens == len(TEXT.encode()) + 1
    (request,) = engine.requests
    params = request.params
    assert (params.temperature, params.seed, params.max_tokens, params.top_k) == (0.5, 7, 20, 5)


async def test_streaming(litellm: Any) -> None:
    async with live_server(says(one_by_one(TEXT))) as url:
        asked = server(url, stream=True, stream_options={"include_usage": True})
        stream: AsyncGenerator[Any] = await litellm.acompletion(**asked)
        found = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in found) == TEXT
    assert [chunk.usage.completion_tokens for chunk in found if getattr(chunk, "usage", None)] == [
        len(TEXT.encode()) + 1
    ]


async def test_text_completion(litellm: Any) -> None:
    async with live_server(says(one_by_one(TEXT))) as url:
        asked = server(url, prompt="x", model=f"text-completion-openai/{MODEL}")
        del asked["messages"]
        answer = await litellm.atext_completion(**asked)
    assert answer.choices[0].text == TEXT


async def test_a_named_tool_is_called(litellm: Any) -> None:
    engine = says(one_by_one(call_text()))
    async with live_server(engine) as url:
        asked = server(url, tools=[WEATHER], tool_choice=choice("weather"))
        answer = await litellm.acompletion(**asked)
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments) == {"city": "Rom 🙂"}
    assert engine.requests[0].params.grammar is not None


async def test_a_streamed_call(litellm: Any) -> None:
    async with live_server(says(one_by_one(call_text()))) as url:
        stream = await litellm.acompletion(**server(url, stream=True, tools=[WEATHER]))
        found = [chunk async for chunk in stream]
    answer = litellm.stream_chunk_builder(found)
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments) == {"city": "Rom 🙂"}
    assert answer.choices[0].finish_reason == "tool_calls"


async def test_the_tool_loop(litellm: Any) -> None:
    engine = TurnsEngine([], max_model_len=10_000)
    messages: list[Any] = [{"role": "user", "content": "Weather?"}]
    async with live_server(engine) as url:
        first = await litellm.acompletion(**server(url, messages=messages, tools=[WEATHER]))
        message = first.choices[0].message
        messages.append(message)
        for call in message.tool_calls:
            content = weather(call.function.arguments)
            messages.append({"role": "tool", "tool_call_id": call.id, "content": content})
        second = await litellm.acompletion(**server(url, messages=messages, tools=[WEATHER]))
    assert second.choices[0].message.content == "Warm in Rom, cold in Oslo."
    assert engine.prompt.index("25 °C") < engine.prompt.index("-3 °C")


async def test_structured_output(litellm: Any) -> None:
    engine = says(one_by_one('{"a": 1}'))
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    asked = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    async with live_server(engine) as url:
        answer = await litellm.acompletion(**server(url, response_format=asked))
    assert answer.choices[0].message.content == '{"a": 1}'
    grammar = engine.requests[0].params.grammar
    assert grammar is not None
    assert json.loads(grammar.text) == schema


async def test_errors_are_its_own(litellm: Any) -> None:
    async with live_server(ScriptedEngine([])) as url:
        with pytest.raises(litellm.BadRequestError, match="top_p"):
            await litellm.acompletion(**server(url, top_p=5))
        with pytest.raises(litellm.NotFoundError, match="gpt-4"):
            await litellm.acompletion(**server(url, model="openai/gpt-4"))
