"""`/v1/messages`: what a model thinks before it answers."""

from typing import Any

import pytest

from tests.api.harness import Json, in_process, make_app
from tests.api.message_types import (
    MESSAGES,
    assistant,
    call,
    check_order,
    message_body,
    parse,
    result,
    stream_events,
    streamed,
    user,
)
from tests.api.thinking import prompt_of, thinking_app
from tests.doubles import ScriptedEngine, one_by_one
from tests.thinking import DEEPSEEK_R1, GPT_OSS, QWEN3, steps_of

SAID = "<think>\nHm 🙂\n</think>\n\nParis."
IN_CHANNELS = (
    "<|channel|>analysis<|message|>Hm<|end|><|start|>assistant<|channel|>final<|message|>Paris."
)


async def ask(engine: ScriptedEngine, template: str = QWEN3, **fields: Any) -> Json:
    """The answer, which is the same in a stream."""
    body = message_body(**fields)
    async with in_process(thinking_app(engine, template)) as client:
        whole = await client.post(MESSAGES, json=body)
        stream = await client.post(MESSAGES, json={**body, "stream": True})
    assert whole.status_code == 200, whole.text
    parse(whole.json())
    found = stream_events(stream.text)
    check_order(found)
    assert {**streamed(found), "id": ""} == {**whole.json(), "id": ""}
    return whole.json()


def says(text: str = SAID) -> ScriptedEngine:
    return ScriptedEngine(steps_of(text))


async def test_thoughts_are_a_block_of_their_own() -> None:
    answer = await ask(says(), thinking={"type": "adaptive"})
    thoughts, text = answer["content"]
    assert (thoughts["type"], thoughts["thinking"]) == ("thinking", "Hm 🙂")
    assert thoughts["signature"]
    assert text == {"type": "text", "text": "Paris."}
    assert answer["stop_reason"] == "end_turn"
    assert answer["usage"]["output_tokens_details"]["thinking_tokens"] > 0


async def test_thoughts_that_are_not_shown() -> None:
    answer = await ask(says(), thinking={"type": "adaptive", "display": "omitted"})
    thoughts, _ = answer["content"]
    assert thoughts["thinking"] == ""
    assert thoughts["signature"]


async def test_thoughts_alone() -> None:
    answer = await ask(says("<think>\nHm"))
    assert [block["type"] for block in answer["content"]] == ["thinking", "text"]


@pytest.mark.parametrize(
    ("fields", "is_off"),
    [
        ({}, False),
        ({"thinking": {"type": "disabled"}}, True),
        ({"thinking": {"type": "disabled"}, "output_config": {"effort": "high"}}, True),
        ({"thinking": {"type": "adaptive"}}, False),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, False),
        ({"chat_template_kwargs": {"enable_thinking": False}}, True),
    ],
)
async def test_the_prompt_says_whether_to_think(fields: Json, is_off: bool) -> None:
    engine = says()
    await ask(engine, **fields)
    assert prompt_of(engine).endswith("</think>\n\n") == is_off


async def test_a_budget() -> None:
    engine = says()
    await ask(engine, thinking={"type": "enabled", "budget_tokens": 1024})
    thinking = engine.requests[0].params.thinking
    assert thinking is not None
    assert thinking.budget == 1024


async def test_a_budget_of_a_model_that_does_not_think() -> None:
    engine = ScriptedEngine(one_by_one("Paris."))
    body = message_body(thinking={"type": "enabled", "budget_tokens": 1024})
    async with in_process(make_app(engine)) as client:
        answer = (await client.post(MESSAGES, json=body)).json()
    assert answer["content"] == [{"type": "text", "text": "Paris."}]


async def test_effort() -> None:
    engine = says()
    await ask(engine, GPT_OSS, output_config={"effort": "high"})
    assert "Reasoning: high" in prompt_of(engine)


ALWAYS = [(DEEPSEEK_R1, "Hm 🙂</think>Paris.", None), (GPT_OSS, IN_CHANNELS, "low")]


@pytest.mark.parametrize(("template", "said", "told"), ALWAYS)
async def test_a_model_that_always_thinks(template: str, said: str, told: str | None) -> None:
    """Where thinking is off it thinks little, if it can be told so, and keeps it to itself: who
    asks for none reads the first block as the answer."""
    engine = says(said)
    answer = await ask(engine, template, thinking={"type": "disabled"})
    assert (f"Reasoning: {told}" in prompt_of(engine)) == (told is not None)
    assert answer["content"] == [{"type": "text", "text": "Paris."}]


@pytest.mark.parametrize(("template", "said", "told"), ALWAYS)
async def test_a_model_that_always_thinks_where_nothing_is_told_apart(
    template: str, said: str, told: str | None
) -> None:
    engine = says(said)
    body = message_body(thinking={"type": "disabled"})
    async with in_process(thinking_app(engine, template, thinks=False)) as client:
        response = await client.post(MESSAGES, json=body)
    assert response.status_code == 200, response.text
    assert (f"Reasoning: {told}" in prompt_of(engine)) == (told is not None)
    (block,) = response.json()["content"]
    assert block["type"] == "text"


async def test_thoughts_alone_that_nobody_asked_for() -> None:
    answer = await ask(says("Hm"), DEEPSEEK_R1, thinking={"type": "disabled"})
    assert answer["content"] == [{"type": "text", "text": ""}]


def thought(text: str) -> Json:
    return {"type": "thinking", "thinking": text, "signature": "x"}


HISTORY = [
    user("a"),
    assistant(thought("first"), call()),
    user(result("b")),
    assistant(thought("second"), thought("third"), "c"),
    user("d"),
]


async def test_thoughts_of_earlier_turns() -> None:
    engine = says()
    await ask(engine, messages=HISTORY)
    assert "<think>first</think>" in prompt_of(engine)
    assert "<think>second\n\nthird</think>c" in prompt_of(engine)


@pytest.mark.parametrize(
    ("keep", "has_first"),
    [
        ({}, False),
        ({"keep": {"type": "thinking_turns", "value": 1}}, False),
        ({"keep": {"type": "thinking_turns", "value": 2}}, True),
        ({"keep": {"type": "all"}}, True),
        ({"keep": "all"}, True),
    ],
)
async def test_thoughts_of_earlier_turns_can_be_left_out(keep: Json, has_first: bool) -> None:
    engine = says()
    edit = {"type": "clear_thinking_20251015", **keep}
    await ask(engine, messages=HISTORY, context_management={"edits": [edit]})
    assert ("first" in prompt_of(engine)) == has_first
    assert "second" in prompt_of(engine)
