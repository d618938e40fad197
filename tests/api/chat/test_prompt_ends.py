"""Where a chat's prompt ends: `continue_final_message` and `add_generation_prompt`, in chats and in
`/tokenize`."""

from typing import Any

import pytest

from tests.api.harness import CHAT, Json, assert_error, in_process
from tests.api.thinking import ask, prompt_of, thinking_app
from tests.doubles import ScriptedEngine, one_by_one
from tests.thinking import DEEPSEEK_R1, QWEN3, steps_of

TURNS = """{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<end>{% endfor %}\
{% if add_generation_prompt %}<|assistant|>{% endif %}"""
USER = {"role": "user", "content": "hi"}
BEGUN = {"role": "assistant", "content": "Once upon"}


async def prompt(template: str, messages: list[Json], **fields: Any) -> str:
    engine = ScriptedEngine(steps_of("x"))
    response = await ask(engine, template, messages=messages, **fields)
    assert response.status_code == 200, response.text
    return prompt_of(engine)


async def test_an_answer_goes_on_with_the_last_message() -> None:
    assert await prompt(TURNS, [USER, BEGUN], continue_final_message=True) == (
        "<|user|>hi<end><|assistant|>Once upon"
    )
    for fields in ({"continue_final_message": False}, {"add_generation_prompt": True}, {}):
        assert (await prompt(TURNS, [USER, BEGUN], **fields)).endswith("upon<end><|assistant|>")
    closed = await prompt(TURNS, [USER, BEGUN], add_generation_prompt=False)
    assert closed == "<|user|>hi<end><|assistant|>Once upon<end>"


@pytest.mark.parametrize("stream", [False, True])
async def test_what_goes_on_keeps_its_space(stream: bool) -> None:
    engine = ScriptedEngine(one_by_one(" a time"))
    fields = {"messages": [USER, BEGUN], "continue_final_message": True, "stream": stream}
    response = await ask(engine, TURNS, **fields)
    assert '" "' in response.text if stream else '" a time"' in response.text


@pytest.mark.parametrize(
    ("begun", "thought", "content"),
    [
        ("<think>Hm, ", "so.", "Yes."),
        ("<think>Hm.</think>Well, ", None, "so.</think>Yes."),
        ("Well, ", None, "so.</think>Yes."),
    ],
)
async def test_what_was_begun_may_be_thinking(
    begun: str, thought: str | None, content: str
) -> None:
    engine = ScriptedEngine(steps_of("so.</think>Yes."))
    last = {"role": "assistant", "content": begun}
    fields = {"messages": [USER, last], "continue_final_message": True}
    message = (await ask(engine, TURNS, **fields)).json()["choices"][0]["message"]
    assert (message.get("reasoning_content"), message["content"]) == (None, "so.</think>Yes.")
    message = (await ask(engine, QWEN3, **fields)).json()["choices"][0]["message"]
    assert (message.get("reasoning_content"), message["content"]) == (thought, content)


CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    "last", [USER, {"role": "assistant", "content": ""}, {**BEGUN, "tool_calls": [CALL]}]
)
async def test_only_the_assistant_s_text_can_be_gone_on_from(last: Json) -> None:
    response = await ask(ScriptedEngine([]), TURNS, messages=[last], continue_final_message=True)
    assert_error(response, 400, "invalid_value", "continue_final_message")


async def test_a_header_can_not_follow_what_goes_on() -> None:
    fields = {"continue_final_message": True, "add_generation_prompt": True}
    response = await ask(ScriptedEngine([]), TURNS, messages=[USER, BEGUN], **fields)
    error = assert_error(response, 400, "invalid_value", "continue_final_message")
    assert "add_generation_prompt" in error["message"]
    async with in_process(thinking_app(ScriptedEngine([]), TURNS)) as client:
        response = await client.post("/tokenize", json={"messages": [USER, BEGUN], **fields})
        assert_error(response, 400, "invalid_value", "continue_final_message")
        response = await client.post("/tokenize", json={"prompt": "a", **fields})
        assert_error(response, 400, "invalid_value", "add_generation_prompt")


async def test_a_template_that_drops_the_message_blames_the_messages() -> None:
    fields = {"messages": [USER, BEGUN], "continue_final_message": True}
    response = await ask(ScriptedEngine([]), "{{ messages[0].content }}", **fields)
    assert_error(response, 400, "invalid_value", "messages")


async def test_tokenize_counts_what_the_chat_sends() -> None:
    for fields in (
        {"continue_final_message": True},
        {"add_generation_prompt": False},
        {"chat_template_kwargs": {"enable_thinking": False}},
    ):
        engine = ScriptedEngine(steps_of("x"))
        template = DEEPSEEK_R1 if "continue_final_message" in fields else QWEN3
        body = {"messages": [USER, BEGUN], **fields}
        async with in_process(thinking_app(engine, template)) as client:
            assert (await client.post(CHAT, json=body)).status_code == 200
            tokens = (await client.post("/tokenize", json=body)).json()["tokens"]
        assert tokens == list(engine.requests[0].prompt_token_ids)
