"""Anthropic's own client, unchanged, synchronous and asynchronous."""

import asyncio
from dataclasses import replace

import anthropic
import pytest
from anthropic import Anthropic, AsyncAnthropic
from anthropic.types import MessageParam

from server.api.middleware.admission import AdmissionLimits
from server.api.middleware.api_keys import ApiKeys
from tests.api.harness import INFO, MIDDLEWARE, MODEL, live_app, live_server, make_app
from tests.doubles import ScriptedEngine, one_by_one

TEXT = "Grüße 你好 🙂"
HI: list[MessageParam] = [{"role": "user", "content": "hi"}]


def sdk(url: str, key: str = "none") -> AsyncAnthropic:
    return AsyncAnthropic(base_url=url, api_key=key, max_retries=0)


async def test_create() -> None:
    async with live_server(ScriptedEngine(one_by_one(TEXT))) as url, sdk(url) as client:
        message = await client.messages.create(
            model=MODEL,
            max_tokens=64,
            system="be kind",
            messages=HI,
            stop_sequences=["!"],
            metadata={"user_id": "me"},
            service_tier="auto",
            extra_body={"temperature": 0.5, "seed": 3, "speculation": {"policy": "off"}},
        )
        type(message).model_validate(message.model_dump(), strict=True)
        (block,) = message.content
        assert block.type == "text"
        assert block.text == TEXT
        assert message.stop_reason == "end_turn"
        assert message._request_id  # pyright: ignore[reportPrivateUsage]  # as documented
        # The client's own objects as the next request's history.
        history: list[MessageParam] = [*HI, {"role": "assistant", "content": message.content}]
        again = await client.messages.create(model=MODEL, max_tokens=64, messages=[*history, *HI])
        assert again.content == message.content
        count = await client.messages.count_tokens(model=MODEL, system="be kind", messages=HI)
        usage = message.usage
        assert usage.cache_read_input_tokens is not None
        assert count.input_tokens == usage.input_tokens + usage.cache_read_input_tokens


async def test_the_stream_helper() -> None:
    async with live_server(ScriptedEngine(one_by_one(TEXT))) as url, sdk(url) as client:
        async with client.messages.stream(model=MODEL, max_tokens=64, messages=HI) as stream:
            texts = [text async for text in stream.text_stream]
            final = await stream.get_final_message()
        assert len(texts) > 1
        whole = await client.messages.create(model=MODEL, max_tokens=64, messages=HI)
        assert "".join(texts) == TEXT == await _final_text(client)
        assert final.content[0].model_dump(include={"text"}) == {"text": TEXT}
        assert (final.usage, final.stop_reason) == (whole.usage, "end_turn")


async def _final_text(client: AsyncAnthropic) -> str:
    async with client.messages.stream(model=MODEL, max_tokens=64, messages=HI) as stream:
        return await stream.get_final_text()


async def test_events_of_create() -> None:
    async with live_server(ScriptedEngine(one_by_one(TEXT))) as url, sdk(url) as client:
        events = await client.messages.create(model=MODEL, max_tokens=64, messages=HI, stream=True)
        found = [event async for event in events]
    for event in found:
        type(event).model_validate(event.model_dump(), strict=True)
    assert [event.type for event in found[:2]] == ["message_start", "content_block_start"]
    assert [event.type for event in found[-2:]] == ["message_delta", "message_stop"]


async def test_the_models() -> None:
    async with live_server(ScriptedEngine([])) as url, sdk(url) as client:
        (listed,) = [model async for model in client.models.list()]
        assert listed.id == listed.display_name == MODEL
        assert listed.created_at.timestamp() == INFO.created
        assert await client.models.retrieve(MODEL) == listed
        with pytest.raises(anthropic.NotFoundError):
            await client.models.retrieve("claude")


async def test_the_beta_client() -> None:
    async with live_server(ScriptedEngine(one_by_one(TEXT))) as url, sdk(url) as client:
        message = await client.beta.messages.create(
            model=MODEL, max_tokens=64, messages=[{"role": "user", "content": "hi"}], betas=["a-b"]
        )
        (block,) = message.content
        assert block.type == "text"
        assert block.text == TEXT


def use_in_a_thread(url: str) -> list[str]:
    with Anthropic(base_url=url, api_key="none", max_retries=0) as client:
        whole = client.messages.create(model=MODEL, max_tokens=64, messages=HI)
        with client.messages.stream(model=MODEL, max_tokens=64, messages=HI) as stream:
            final = "".join(stream.text_stream)
        assert client.messages.count_tokens(model=MODEL, messages=HI).input_tokens == 8
        assert [model.id for model in client.models.list()] == [MODEL]
        (block,) = whole.content
        assert block.type == "text"
        return [block.text, final]


async def test_the_synchronous_client() -> None:
    async with live_server(ScriptedEngine(one_by_one(TEXT))) as url:
        assert await asyncio.to_thread(use_in_a_thread, url) == [TEXT, TEXT]


async def test_errors_are_the_clients_own_exceptions() -> None:
    engine = ScriptedEngine(one_by_one("a"), max_model_len=64)
    app = make_app(
        engine, middleware=replace(MIDDLEWARE, api_keys=ApiKeys(["k"]), max_body_size=10_000)
    )
    async with live_app(app) as url, sdk(url, "k") as client:
        create = client.messages.create
        with pytest.raises(anthropic.BadRequestError) as bad:
            await create(model=MODEL, max_tokens=8, messages=HI, extra_body={"top_p": 5})
        assert bad.value.type == "invalid_request_error"
        assert bad.value.request_id
        with pytest.raises(anthropic.BadRequestError, match="prompt is too long"):
            await create(model=MODEL, max_tokens=8, messages=HI, system="long" * 50)
        with pytest.raises(anthropic.NotFoundError) as other:
            await create(model="claude-opus", max_tokens=8, messages=HI)
        assert other.value.type == "not_found_error"
        with pytest.raises(anthropic.ContentTooLargeError) as large:
            await create(model=MODEL, max_tokens=8, messages=HI, system="a" * 10_000)
        assert large.value.type == "request_too_large"
        with pytest.raises(anthropic.AuthenticationError) as key:
            await client.copy(api_key="other").messages.create(
                model=MODEL, max_tokens=8, messages=HI
            )
        assert key.value.type == "authentication_error"
        by_header = {"authorization": "", "x-api-key": "k"}
        assert await create(model=MODEL, max_tokens=8, messages=HI, extra_headers=by_header)


async def test_too_many_requests() -> None:
    engine = ScriptedEngine(one_by_one("ab"), hang_after=1)
    app = make_app(engine, middleware=replace(MIDDLEWARE, limits=AdmissionLimits(1, 0)))
    async with live_app(app) as url, sdk(url) as client, asyncio.TaskGroup() as group:
        group.create_task(client.messages.create(model=MODEL, max_tokens=8, messages=HI))
        await engine.hangs.wait()
        with pytest.raises(anthropic.RateLimitError) as many:
            await client.messages.create(model=MODEL, max_tokens=8, messages=HI)
        assert many.value.type == "rate_limit_error"
        assert many.value.response.headers["retry-after"] == "1"
        engine.let_go.set()


async def test_an_engine_that_dies() -> None:
    engine = ScriptedEngine(one_by_one("abc"), die_after=0)
    async with live_server(engine) as url, sdk(url) as client:
        with pytest.raises(anthropic.InternalServerError) as whole:
            await client.messages.create(model=MODEL, max_tokens=8, messages=HI)
        assert whole.value.type == "api_error"
        engine.die_after = 2
        with pytest.raises(anthropic.APIStatusError) as streamed:
            await _final_text(client)
        assert streamed.value.type == "api_error"


async def test_a_server_that_ends() -> None:
    app = make_app(ScriptedEngine([]))
    app.state.lifecycle.drain()
    async with live_app(app) as url, sdk(url) as client:
        with pytest.raises(anthropic.ServiceUnavailableError) as ends:
            await client.messages.create(model=MODEL, max_tokens=8, messages=HI)
    assert ends.value.type == "overloaded_error"
