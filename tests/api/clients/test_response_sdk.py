"""OpenAI's own client against `/v1/responses`, unchanged, synchronous and asynchronous."""

import asyncio

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.api.harness import MODEL, live_server
from tests.doubles import ScriptedEngine, one_by_one

TEXT = "Grüße 你好 🙂"


def sdk(url: str) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


async def test_create_retrieve_delete() -> None:
    async with live_server(ScriptedEngine(one_by_one(TEXT))) as url, sdk(url) as client:
        first = await client.responses.create(
            model=MODEL,
            input="hi",
            instructions="be kind",
            include=["message.output_text.logprobs"],
            top_logprobs=2,
            extra_body={"top_k": 5, "seed": 3},
        )
        assert first.output_text == TEXT
        second = await client.responses.create(
            model=MODEL, input="more", previous_response_id=first.id
        )
        assert await client.responses.retrieve(first.id) == first
        items = client.responses.input_items.list(second.id, order="asc", limit=1)
        found = [item async for item in items]  # three pages
        assert [item.type for item in found] == ["message"] * 3
        assert await client.responses.delete(first.id) is None
        with pytest.raises(openai.NotFoundError) as gone:
            await client.responses.retrieve(first.id)
        assert gone.value.code == "not_found"
        # The client's own list of outputs as the next input.
        again = [*second.output, {"role": "user", "content": "and?"}]
        third = await client.responses.create(model=MODEL, input=again)  # pyright: ignore[reportArgumentType, reportCallIssue]  # as documented
        assert third.output_text == TEXT


async def test_events_of_create() -> None:
    async with live_server(ScriptedEngine(one_by_one(TEXT))) as url, sdk(url) as client:
        events = await client.responses.create(model=MODEL, input="hi", stream=True)
        found = [event async for event in events]
    deltas = [event.delta for event in found if event.type == "response.output_text.delta"]
    assert "".join(deltas) == TEXT
    assert [event.sequence_number for event in found] == list(range(len(found)))
    for event in found:
        type(event).model_validate(event.model_dump(), strict=True)
    last = found[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == TEXT


async def test_the_stream_helper() -> None:
    async with live_server(ScriptedEngine(one_by_one(TEXT))) as url, sdk(url) as client:
        async with client.responses.stream(model=MODEL, input="hi") as stream:
            events = [event async for event in stream]
            final = await stream.get_final_response()
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    assert deltas[-1].snapshot == final.output_text == TEXT


def use_in_a_thread(url: str) -> list[str]:
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        whole = client.responses.create(model=MODEL, input="hi")
        with client.responses.stream(model=MODEL, input="hi") as stream:
            final = stream.get_final_response()
        items = client.responses.input_items.list(whole.id)
        assert len(list(items)) == 1
        client.responses.delete(whole.id)
        return [whole.output_text, final.output_text]


async def test_the_synchronous_client() -> None:
    async with live_server(ScriptedEngine(one_by_one(TEXT))) as url:
        assert await asyncio.to_thread(use_in_a_thread, url) == [TEXT, TEXT]


async def test_errors_are_the_clients_own_exceptions() -> None:
    async with live_server(ScriptedEngine(one_by_one("a"))) as url, sdk(url) as client:
        with pytest.raises(openai.BadRequestError) as bad:
            await client.responses.create(model=MODEL, input="hi", background=True)
        assert (bad.value.param, bad.value.code) == ("background", "unsupported_field")
        with pytest.raises(openai.NotFoundError) as other:
            await client.responses.create(model="gpt-4", input="hi")
        assert other.value.code == "model_not_found"
