"""OpenAI's own client with a model that thinks."""

from openai import AsyncOpenAI

from tests.api.harness import MODEL, live_app
from tests.api.thinking import thinking_app
from tests.doubles import ScriptedEngine
from tests.thinking import steps_of


def sdk(url: str) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


async def test_chats() -> None:
    engine = ScriptedEngine(steps_of("<think>Hm.</think>Yes."))
    async with live_app(thinking_app(engine)) as url, sdk(url) as client:
        whole = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "hi"}], reasoning_effort="low"
        )
        stream = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "hi"}], stream=True
        )
        deltas = [choice.delta async for chunk in stream for choice in chunk.choices]
    message = whole.choices[0].message
    assert message.content == "Yes."
    assert (message.model_extra or {})["reasoning_content"] == "Hm."
    assert whole.usage is not None
    assert whole.usage.completion_tokens_details is not None
    assert whole.usage.completion_tokens_details.reasoning_tokens == 3
    thoughts = [(delta.model_extra or {}).get("reasoning_content") or "" for delta in deltas]
    assert "".join(thoughts) == "Hm."
    assert "".join(delta.content or "" for delta in deltas) == "Yes."


async def test_responses() -> None:
    engine = ScriptedEngine(steps_of("<think>Hm.</think>Yes."))
    async with live_app(thinking_app(engine)) as url, sdk(url) as client:
        first = await client.responses.create(model=MODEL, input="hi", reasoning={"effort": "high"})
        assert first.output_text == "Yes."
        (thinking,) = [item for item in first.output if item.type == "reasoning"]
        assert [part.text for part in thinking.content or ()] == ["Hm."]
        again = [*first.output, {"role": "user", "content": "and?"}]
        second = await client.responses.create(model=MODEL, input=again)  # pyright: ignore[reportArgumentType, reportCallIssue]  # as documented
        assert second.output_text == "Yes."
        async with client.responses.stream(model=MODEL, input="hi") as stream:
            events = [event async for event in stream]
            final = await stream.get_final_response()
    deltas = [event.delta for event in events if event.type == "response.reasoning_text.delta"]
    assert "".join(deltas) == "Hm."
    assert final.output_text == "Yes."
