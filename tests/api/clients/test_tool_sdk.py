"""OpenAI's own client and its helpers, unchanged, against a live server."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import openai
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
from pydantic import BaseModel

from server.engine.outputs import RequestOutput
from server.engine.types import Request
from tests.api.harness import MODEL, live_server
from tests.api.tool_chats import call_text, says
from tests.doubles import ScriptedEngine, byte_tokenizer, one_by_one

WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


class TurnsEngine(ScriptedEngine):
    """Calls two functions at first, and then says what came back."""

    async def generate(self, request: Request) -> AsyncGenerator[RequestOutput, None]:
        token_bytes = byte_tokenizer().token_bytes
        prompt = b"".join(token_bytes(token) for token in request.prompt_token_ids).decode()
        oslo = '{"city": "Oslo"}'
        calls = f"{call_text()}\n{call_text(arguments=oslo)}"
        answer = "Warm in Rom, cold in Oslo." if '"content": ' in prompt else calls
        self.steps = one_by_one(answer)
        self.prompt = prompt
        async for output in super().generate(request):
            yield output


def turns() -> TurnsEngine:
    return TurnsEngine([], max_model_len=10_000)


def weather(arguments: str) -> str:
    return "25 °C" if json.loads(arguments)["city"].startswith("Rom") else "-3 °C"


def client_of(url: str) -> dict[str, Any]:
    return {"base_url": f"{url}/v1", "api_key": "none", "max_retries": 0}


def check_second_prompt(engine: TurnsEngine) -> None:
    assert '{"name": "weather", "content": "25 °C"}' in engine.prompt
    assert '{"name": "weather", "content": "-3 °C"}' in engine.prompt
    assert engine.prompt.index("25") < engine.prompt.index("-3")


async def test_the_tool_loop() -> None:
    engine = turns()
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Weather?"}]
    async with live_server(engine) as url, AsyncOpenAI(**client_of(url)) as client:
        while True:
            answer = await client.chat.completions.create(
                model=MODEL, messages=messages, tools=[WEATHER]
            )
            type(answer).model_validate(answer.model_dump(), strict=True)
            message = answer.choices[0].message
            if answer.choices[0].finish_reason != "tool_calls":
                break
            messages.append(message.to_dict())  # pyright: ignore[reportArgumentType]
            for call in message.tool_calls or ():
                assert call.type == "function"
                content = weather(call.function.arguments)
                messages.append({"role": "tool", "tool_call_id": call.id, "content": content})
    assert message.content == "Warm in Rom, cold in Oslo."
    assert len(messages) == 4
    check_second_prompt(engine)


def loop_in_a_thread(url: str) -> str:
    messages: list[Any] = [{"role": "user", "content": "Weather?"}]
    with openai.OpenAI(**client_of(url)) as client:
        first = client.chat.completions.create(model=MODEL, messages=messages, tools=[WEATHER])
        message = first.choices[0].message
        messages.append(message)  # as it is: the documented way
        for call in message.tool_calls or ():
            assert call.type == "function"
            content = weather(call.function.arguments)
            messages.append({"role": "tool", "tool_call_id": call.id, "content": content})
        second = client.chat.completions.create(model=MODEL, messages=messages, tools=[WEATHER])
    return second.choices[0].message.content or ""


async def test_the_tool_loop_of_the_synchronous_client() -> None:
    engine = turns()
    async with live_server(engine) as url:
        said = await asyncio.to_thread(loop_in_a_thread, url)
    assert said == "Warm in Rom, cold in Oslo."
    check_second_prompt(engine)


class GetWeather(BaseModel):
    """Weather of a city"""

    city: str


async def test_parse_gives_objects() -> None:
    text = call_text("GetWeather")
    async with (
        live_server(says(one_by_one(text))) as url,
        AsyncOpenAI(**client_of(url)) as client,
    ):
        answer = await client.chat.completions.parse(
            model=MODEL,
            messages=[{"role": "user", "content": "hi"}],
            tools=[openai.pydantic_function_tool(GetWeather)],
        )
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.function.parsed_arguments == GetWeather(city="Rom 🙂")


async def test_the_stream_helper() -> None:
    text = f"Hm. {call_text('GetWeather')}"
    kinds: list[str] = []
    arguments = ""
    async with (
        live_server(says(one_by_one(text))) as url,
        AsyncOpenAI(**client_of(url)) as client,
        client.chat.completions.stream(
            model=MODEL,
            messages=[{"role": "user", "content": "hi"}],
            tools=[openai.pydantic_function_tool(GetWeather)],
            stream_options={"include_usage": True},
            logprobs=True,
        ) as stream,
    ):
        async for event in stream:
            kinds.append(event.type)
            if event.type == "tool_calls.function.arguments.delta":
                assert event.name == "GetWeather"
                arguments += event.arguments_delta
            if event.type == "tool_calls.function.arguments.done":
                assert event.parsed_arguments == GetWeather(city="Rom 🙂")
        final = await stream.get_final_completion()
    message = final.choices[0].message
    assert (message.content, arguments) == ("Hm. ", '{"city": "Rom 🙂"}')
    assert {"content.delta", "content.done", "tool_calls.function.arguments.done"} <= set(kinds)
    (call,) = message.tool_calls or []
    assert call.function.parsed_arguments == GetWeather(city="Rom 🙂")
    assert call.id.startswith("call_")
    assert final.choices[0].finish_reason == "tool_calls"
    assert final.usage is not None
    logprobs = final.choices[0].logprobs
    assert logprobs is not None
    said = bytes(byte for entry in logprobs.content or () for byte in entry.bytes or ())
    assert said.decode() == text


async def test_a_stream_of_a_call_alone_has_no_content() -> None:
    async with (
        live_server(says(one_by_one(call_text()))) as url,
        AsyncOpenAI(**client_of(url)) as client,
        client.chat.completions.stream(
            model=MODEL,
            messages=[{"role": "user", "content": "hi"}],
            tools=[{"type": "function", "function": {**WEATHER["function"], "strict": True}}],
        ) as stream,
    ):
        final = await stream.get_final_completion()
    assert final.choices[0].message.content is None
