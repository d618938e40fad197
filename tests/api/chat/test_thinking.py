"""What a model thinks before it answers, in chats: kept apart from the answer, asked for, counted
and sent back."""

from typing import Any

import pytest

from server.text.thinking.formats import ThinkingFormatName
from tests.api import openai_types
from tests.api.harness import CHAT, Json, assert_error, chat_body, chunks, in_process
from tests.api.thinking import answer, ask, prompt_of, thinking_app
from tests.doubles import ScriptedEngine
from tests.thinking import DEEPSEEK_R1, GPT_OSS, QWEN3, SMOLLM3, WORDS, steps_of

THOUGHT = "<think>\nHm, 你好.\n</think>\n\nYes 🙂."
CHANNELS = (
    "<|channel|>analysis<|message|>Hm, 你好.<|end|><|start|>assistant"
    "<|channel|>final<|message|>Yes 🙂."
)
FAMILIES = [(QWEN3, THOUGHT), (DEEPSEEK_R1, THOUGHT.removeprefix("<think>")), (GPT_OSS, CHANNELS)]
NUM_THOUGHT = len("Hm, 你好.".encode())
SIZES = pytest.mark.parametrize("size", [1, 2, 3, 7, 200])
"""Tokens of a step: speculation brings several at once, and what they say is the same."""


def message_of(body: Json) -> Json:
    openai_types.parse(body)
    return body["choices"][0]["message"]


def streamed(text: str) -> Json:
    """What a stream's deltas add up to."""
    found: dict[str, Any] = {"role": None, "content": None, "reasoning_content": None}
    for chunk in chunks(text):
        for choice in chunk["choices"]:
            for name, value in choice["delta"].items():
                if value is not None and name != "tool_calls":
                    found[name] = (found[name] or "") + value
    return found


@SIZES
@pytest.mark.parametrize(("template", "text"), FAMILIES)
async def test_thinking_is_kept_apart(template: str, text: str, size: int) -> None:
    body = (await answer(text, template, step_size=size)).json()
    message = message_of(body)
    assert (message["reasoning_content"], message["content"]) == ("Hm, 你好.", "Yes 🙂.")
    assert body["choices"][0]["finish_reason"] == "stop"
    details = body["usage"]["completion_tokens_details"]
    assert details == {"reasoning_tokens": NUM_THOUGHT}
    options = {"include_usage": True}
    response = await answer(text, template, step_size=size, stream=True, stream_options=options)
    stream = response.text
    assert streamed(stream) == {
        "role": "assistant", "content": "Yes 🙂.", "reasoning_content": "Hm, 你好.",
    }  # fmt: skip
    assert chunks(stream)[-1]["usage"] == body["usage"]


async def test_thinking_that_does_not_end() -> None:
    message = message_of((await answer("<think>Hm. </thi")).json())
    assert (message["reasoning_content"], message["content"]) == ("Hm. </thi", "")


async def test_an_answer_without_thinking_says_nothing_of_it() -> None:
    body = (await answer("Yes.")).json()
    assert message_of(body)["content"] == "Yes."
    assert "reasoning_content" not in message_of(body)
    assert body["usage"]["completion_tokens_details"] == {"reasoning_tokens": 0}


async def test_a_prompt_that_ends_the_thinking() -> None:
    """Marks in the answer are text then."""
    kwargs = {"enable_thinking": False}
    response = await answer("<think>a</think>b", chat_template_kwargs=kwargs)
    message = message_of(response.json())
    assert (message["content"], message.get("reasoning_content")) == ("<think>a</think>b", None)


@SIZES
@pytest.mark.parametrize("stream", [False, True])
async def test_stop_strings_are_looked_for_in_the_answer(stream: bool, size: int) -> None:
    text = "<think>a STOP b</think>c STOP d"
    response = await answer(text, step_size=size, stop="STOP", stream=stream)
    found = streamed(response.text) if stream else message_of(response.json())
    assert (found["reasoning_content"], found["content"]) == ("a STOP b", "c ")


@SIZES
async def test_logprobs_are_of_all_tokens(size: int) -> None:
    response = await answer(THOUGHT, step_size=size, logprobs=True)
    entries = response.json()["choices"][0]["logprobs"]["content"]
    assert len(entries) == len(steps_of(THOUGHT)) - 1
    stream = chunks((await answer(THOUGHT, step_size=size, logprobs=True, stream=True)).text)
    logprobs = [chunk["choices"][0]["logprobs"] for chunk in stream]
    assert [entry for part in logprobs if part for entry in part["content"]] == entries


TOOLS = [{"type": "function", "function": {"name": "f"}}]
CALL = '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'
HARMONY_CALL = (
    "<|channel|>analysis<|message|>I call <|end|><|start|>assistant<|channel|>commentary"
    ' to=functions.f <|constrain|>json<|message|>{"a": 1}'
)


@SIZES
@pytest.mark.parametrize(
    ("template", "text", "thought"),
    [
        (QWEN3, f"<think>I call {CALL}</think>\n{CALL}", f"I call {CALL}"),
        (GPT_OSS, HARMONY_CALL, "I call "),
    ],
)
async def test_calls_are_looked_for_behind_the_thinking(
    template: str, text: str, thought: str, size: int
) -> None:
    whole = await answer(text, template, step_size=size, tools=TOOLS)
    message = message_of(whole.json())
    assert (message["reasoning_content"], message["content"]) == (thought, None)
    (call,) = message["tool_calls"]
    assert (call["function"]["name"], call["function"]["arguments"]) == ("f", '{"a": 1}')
    assert whole.json()["choices"][0]["finish_reason"] == "tool_calls"
    response = await answer(text, template, step_size=size, tools=TOOLS, stream=True)
    stream = chunks(response.text)
    deltas = [chunk["choices"][0]["delta"] for chunk in stream]
    calls = [call["function"] for delta in deltas for call in delta.get("tool_calls") or ()]
    assert "".join(call.get("arguments", "") for call in calls) == '{"a": 1}'
    assert "".join(delta.get("reasoning_content") or "" for delta in deltas) == thought


HERMES_BEGIN = '<tool_call>{"name": "f", "arguments": '
HARMONY_BEGIN = "<|channel|>commentary to=functions.f <|constrain|>json<|message|>"


@SIZES
@pytest.mark.parametrize(
    ("template", "text", "arguments", "reason"),
    [
        (QWEN3, f'{HERMES_BEGIN}{{"a": "x STOP"}}}}</tool_call>', '{"a": "x ', "stop"),
        (GPT_OSS, f'{HARMONY_BEGIN}{{"a": "x STOP"}}<|call|>', '{"a": "x ', "stop"),
        (QWEN3, f"{HERMES_BEGIN}{{}}}}STOP</tool_call>", "{}", "tool_calls"),
        (GPT_OSS, f"{HARMONY_BEGIN}{{}}STOP<|call|>", "{}", "tool_calls"),
    ],
)
async def test_a_call_that_a_stop_string_cuts_is_none_to_carry_out(
    template: str, text: str, arguments: str, reason: str, size: int
) -> None:
    """In every form, and in a stream too."""
    fields: Json = {"stop": "STOP", "tools": TOOLS, "step_size": size}
    (choice,) = (await answer(text, template, **fields)).json()["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert (call["function"]["arguments"], choice["finish_reason"]) == (arguments, reason)
    stream = chunks((await answer(text, template, stream=True, **fields)).text)
    assert stream[-1]["choices"][0]["finish_reason"] == reason


@pytest.mark.parametrize(
    ("form", "content"), [("think", "<|a|>"), ("harmony", "<think>x</think><|a|>")]
)
async def test_the_form_can_be_set(form: ThinkingFormatName, content: str) -> None:
    engine = ScriptedEngine(steps_of("<think>x</think><|a|>"))
    async with in_process(thinking_app(engine, WORDS, form)) as client:
        body = (await client.post(CHAT, json=chat_body())).json()
    assert message_of(body)["content"] == content


async def test_nothing_can_be_told_apart() -> None:
    """The model thinks all the same."""
    engine = ScriptedEngine(steps_of("<think>x</think>a"))
    said = {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm."}
    async with in_process(thinking_app(engine, thinks=False)) as client:
        body = chat_body(messages=[said, {"role": "user", "content": "hi"}])
        answered = (await client.post(CHAT, json=body)).json()
    assert message_of(answered)["content"] == "<think>x</think>a"
    assert "<think>Hm.</think>Yes." in prompt_of(engine)
    async with in_process(thinking_app(engine, DEEPSEEK_R1, thinks=False)) as client:
        response = await client.post(CHAT, json=chat_body(reasoning_effort="none"))
    assert_error(response, 400, "invalid_value", "reasoning_effort")


@pytest.mark.parametrize(
    ("template", "effort", "expected"),
    [
        (QWEN3, "none", "<|assistant|><think>\n\n</think>\n\n"),
        (QWEN3, "low", "<|assistant|>"),
        (SMOLLM3, "none", "<|assistant|><think>\n\n</think>\n"),
        (SMOLLM3, "high", "<|assistant|>"),
        (WORDS, "none", "<|system|>/no_think<|user|>hi<|assistant|><think></think>"),
        (WORDS, "medium", "<|system|>/think<|user|>hi<|assistant|>"),
        (DEEPSEEK_R1, "high", "<|assistant|><think>\n"),
        (GPT_OSS, "minimal", "Reasoning: low"),
        (GPT_OSS, "xhigh", "Reasoning: high"),
        (GPT_OSS, None, "Reasoning: medium"),
        ("{{ messages[0].content }}", "none", "hi"),
    ],
)
async def test_effort_is_what_the_template_reads(
    template: str, effort: str | None, expected: str
) -> None:
    engine = ScriptedEngine(steps_of("a"))
    response = await ask(engine, template, reasoning_effort=effort)
    assert response.status_code == 200, response.text
    prompt = prompt_of(engine)
    assert prompt.endswith(expected) or (template == GPT_OSS and f"{expected}<|end|>" in prompt)


@pytest.mark.parametrize("template", [DEEPSEEK_R1, GPT_OSS])
async def test_what_cannot_be_turned_off_is_refused(template: str) -> None:
    engine = ScriptedEngine([])
    response = await ask(engine, template, reasoning_effort="none")
    error = assert_error(response, 400, "invalid_value", "reasoning_effort")
    assert "turn thinking off" in error["message"]
    assert engine.requests == []


async def test_template_variables_are_checked_against_the_template() -> None:
    response = await ask(ScriptedEngine([]), chat_template_kwargs={"thinking_mode": 1})
    param = "chat_template_kwargs.thinking_mode"
    error = assert_error(response, 400, "invalid_value", param)
    assert "enable_thinking" in error["message"]
    for name in ("messages", "tools", "bos_token", "add_generation_prompt", "range"):
        response = await ask(ScriptedEngine([]), chat_template_kwargs={name: 1})
        assert_error(response, 400, "invalid_value", f"chat_template_kwargs.{name}")
    response = await ask(ScriptedEngine([]), "{{ 1 }}", chat_template_kwargs={"x": 1})
    assert "reads: none" in response.json()["error"]["message"]


async def test_two_fields_that_contradict_each_other() -> None:
    options = {"enable_thinking": True}
    response = await ask(ScriptedEngine([]), reasoning_effort="none", chat_template_kwargs=options)
    assert_error(response, 400, "invalid_value", "reasoning_effort")
    agreeing = await answer("a", reasoning_effort="low", chat_template_kwargs=options)
    assert agreeing.status_code == 200


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
@pytest.mark.parametrize(
    ("template", "shown"),
    [
        (QWEN3, "<|assistant|><think>Hm.</think>Yes."),
        (GPT_OSS, "<|channel|>analysis<|message|>Hm.<|end|><|channel|>final<|message|>Yes."),
        (DEEPSEEK_R1, "<|assistant|>Yes.<|user|>"),
        (SMOLLM3, "<|assistant|>Yes.<|user|>"),
    ],
)
async def test_thoughts_come_back(template: str, shown: str, name: str) -> None:
    said = {"role": "assistant", "content": "Yes.", name: "Hm."}
    user = {"role": "user", "content": "hi"}
    engine = ScriptedEngine(steps_of("a"))
    assert (await ask(engine, template, messages=[user, said, user])).status_code == 200
    assert shown in prompt_of(engine)


async def test_thoughts_beside_a_call_of_gpt_oss() -> None:
    """Its template takes no content beside them."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    past = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "I call.", "reasoning_content": "Hm.",
         "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "1"},
    ]  # fmt: skip
    engine = ScriptedEngine(steps_of("a"))
    assert (await ask(engine, GPT_OSS, messages=past, tools=TOOLS)).status_code == 200
    assert "Hm.\n\nI call.<|end|>" in prompt_of(engine)


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
@pytest.mark.parametrize("role", ["user", "system", "developer", "tool"])
async def test_only_the_assistant_thinks(role: str, field: str) -> None:
    messages = [{"role": role, "content": "hi", field: "Hm."}]
    response = await answer("Yes.", messages=messages)
    assert_error(response, 400, "invalid_value", f"messages.0.{field}")
