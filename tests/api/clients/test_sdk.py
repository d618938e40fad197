"""The official client against a live server."""

import asyncio

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.api.harness import MODEL, live_app, live_server
from tests.api.tiny_server import tiny_server
from tests.doubles import ScriptedEngine, one_by_one

TEXT = "Grüße 你好 🙂"


def sdk(url: str) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


async def test_chat() -> None:
    async with live_server(ScriptedEngine(one_by_one(TEXT))) as url, sdk(url) as client:
        answer = await client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "hi"}],
            logprobs=True,
            top_logprobs=2,
            extra_body={"top_k": 5, "min_p": 0.1},
        )
    choice = answer.choices[0]
    assert choice.message.content == TEXT
    assert choice.finish_reason == "stop"
    assert choice.logprobs is not None
    entries = choice.logprobs.content or []
    assert bytes(byte for entry in entries for byte in entry.bytes or []).decode() == TEXT
    assert len(entries[0].top_logprobs) == 2
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 3


async def test_streamed_chat() -> None:
    async with live_server(ScriptedEngine(one_by_one(TEXT))) as url, sdk(url) as client:
        stream = await client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "hi"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        found = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in found[:-1]) == TEXT
    assert found[0].choices[0].delta.role == "assistant"
    assert found[-2].choices[0].finish_reason == "stop"
    assert found[-1].usage is not None
    assert found[-1].usage.completion_tokens == len(TEXT.encode()) + 1
    # Complete enough for the client's own strict validation.
    for chunk in found:
        type(chunk).model_validate(chunk.model_dump(), strict=True)


async def test_completions() -> None:
    async with live_server(ScriptedEngine(one_by_one(TEXT))) as url, sdk(url) as client:
        whole = await client.completions.create(model=MODEL, prompt="x", logprobs=1)
        stream = await client.completions.create(model=MODEL, prompt="x", stream=True)
        streamed = [chunk.choices[0].text async for chunk in stream]
    assert whole.choices[0].text == TEXT
    assert whole.choices[0].logprobs is not None
    assert "".join(streamed) == TEXT


async def test_several_answers() -> None:
    async with tiny_server() as server, live_app(server.app) as url, sdk(url) as client:
        whole = await client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "hi"}],
            n=3,
            seed=5,
            max_completion_tokens=12,
            logprobs=True,
        )
        stream = await client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "hi"}],
            n=3,
            seed=5,
            max_completion_tokens=12,
            stream=True,
        )
        texts = ["", "", ""]
        async for chunk in stream:
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
    assert [choice.message.content for choice in whole.choices] == texts
    assert len(set(texts)) == 3


async def test_the_stream_helper_keeps_answers_apart() -> None:
    async with live_server(ScriptedEngine(one_by_one(TEXT))) as url, sdk(url) as client:
        async with client.chat.completions.stream(
            model=MODEL, messages=[{"role": "user", "content": "hi"}], n=2
        ) as stream:
            found = [event async for event in stream if event.type == "content.delta"]
            final = await stream.get_final_completion()
    assert found
    assert [choice.index for choice in final.choices] == [0, 1]
    assert [choice.message.content for choice in final.choices] == [TEXT, TEXT]


async def test_the_synchronous_client() -> None:
    """n, a batch, echo, best_of and a stream."""

    def ask(url: str) -> None:
        with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            batch = client.completions.create(
                model=MODEL, prompt=["ab", "cd"], n=2, echo=True, logprobs=2, max_tokens=3
            )
            assert [choice.index for choice in batch.choices] == [0, 1, 2, 3]
            assert [choice.text[:2] for choice in batch.choices] == ["ab", "ab", "cd", "cd"]
            assert batch.usage is not None
            assert batch.usage.prompt_tokens == 4
            best = client.completions.create(model=MODEL, prompt="ab", best_of=3, max_tokens=3)
            assert len(best.choices) == 1
            scored = client.completions.create(
                model=MODEL, prompt=[1, 2, 3], echo=True, logprobs=0, max_tokens=0
            )
            assert scored.choices[0].logprobs is not None
            assert len(scored.choices[0].logprobs.token_logprobs or []) == 3
            stream = client.completions.create(
                model=MODEL, prompt="ab", n=2, echo=True, stream=True, max_tokens=3
            )
            texts = {0: "", 1: ""}
            for chunk in stream:
                for choice in chunk.choices:
                    texts[choice.index] += choice.text
            assert all(text.startswith("ab") for text in texts.values())

    async with tiny_server() as server, live_app(server.app) as url:
        await asyncio.to_thread(ask, url)


async def test_models() -> None:
    async with live_server(ScriptedEngine([])) as url, sdk(url) as client:
        assert [model.id async for model in client.models.list()] == [MODEL]
        # The client escapes the slash.
        assert (await client.models.retrieve(MODEL)).id == MODEL


async def test_errors_are_the_clients_own_exceptions() -> None:
    async with (
        live_server(ScriptedEngine(one_by_one("abc"), die_after=2)) as url,
        sdk(url) as client,
    ):
        with pytest.raises(openai.NotFoundError) as not_found:
            await client.completions.create(model="other", prompt="x")
        assert not_found.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError) as bad:
            await client.completions.create(model=MODEL, prompt="x", temperature=3)
        assert bad.value.param == "temperature"
        stream = await client.completions.create(model=MODEL, prompt="x", stream=True)
        with pytest.raises(openai.APIError, match="the engine has stopped"):
            _ = [chunk async for chunk in stream]
