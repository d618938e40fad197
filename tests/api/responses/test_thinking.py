"""What a model thinks before it answers, as items of a response."""

from typing import Any

import pytest

from tests.api.harness import Json, assert_error, in_process
from tests.api.response_types import RESPONSES, events, kinds, parse
from tests.api.thinking import prompt_of, thinking_app
from tests.doubles import ScriptedEngine
from tests.thinking import DEEPSEEK_R1, GPT_OSS, QWEN3, steps_of

THOUGHT = "<think>\nHm.\n</think>\n\nYes."


async def respond(text: str, template: str = QWEN3, *, step_size: int = 1, **fields: Any) -> Json:
    engine = ScriptedEngine(steps_of(text, step_size))
    async with in_process(thinking_app(engine, template)) as client:
        response = await client.post(RESPONSES, json={"input": "hi", **fields})
    assert response.status_code == 200, response.text
    return parse(response.json())


@pytest.mark.parametrize("size", [1, 2, 3, 7, 200])
async def test_thinking_is_an_item(size: int) -> None:
    reasoning = {"effort": "high", "summary": "auto"}
    response = await respond(THOUGHT, step_size=size, reasoning=reasoning)
    thinking, message = response["output"]
    assert thinking["type"] == "reasoning"
    assert thinking["content"] == [{"type": "reasoning_text", "text": "Hm."}]
    assert (thinking["summary"], thinking["status"]) == ([], "completed")
    assert message["content"][0]["text"] == "Yes."
    assert response["usage"]["output_tokens_details"] == {"reasoning_tokens": 3}
    assert response["reasoning"] == {"effort": "high", "summary": None}


@pytest.mark.parametrize(
    ("text", "expected"),
    [("<think>Hm.", ["reasoning", "message"]), ("<think>Hm.</think>", ["reasoning", "message"]),
     ("<think></think>Yes.", ["message"]), ("Yes.", ["message"])],
)  # fmt: skip
async def test_items_of_answers_that_lack_something(text: str, expected: list[str]) -> None:
    response = await respond(text)
    assert [item["type"] for item in response["output"]] == expected
    assert {item["status"] for item in response["output"]} == {"completed"}


async def test_thinking_that_is_cut_short() -> None:
    engine = ScriptedEngine(steps_of("<think>Hm.")[:-1])
    async with in_process(thinking_app(engine)) as client:
        response = parse((await client.post(RESPONSES, json={"input": "hi"})).json())
    (item,) = response["output"]
    assert (item["type"], item["status"]) == ("reasoning", "incomplete")
    assert response["status"] == "incomplete"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("template", "begin"),
    [
        (QWEN3, '<tool_call>{"name": "f", "arguments": '),
        (GPT_OSS, "<|channel|>commentary to=functions.f <|constrain|>json<|message|>"),
    ],
)
async def test_a_call_that_a_stop_string_cuts(template: str, begin: str, stream: bool) -> None:
    """It is no whole one, in whatever form it is written."""
    tools: list[Json] = [{"type": "function", "name": "f", "strict": False}]
    body = {"input": "hi", "tools": tools, "stop": "STOP", "stream": stream}
    engine = ScriptedEngine(steps_of(begin + '{"a": "x STOP"}'))
    async with in_process(thinking_app(engine, template)) as client:
        answered = await client.post(RESPONSES, json=body)
    response = events(answered.text)[-1]["response"] if stream else answered.json()
    (item,) = parse(response)["output"]
    assert (item["type"], item["arguments"]) == ("function_call", '{"a": "x ')
    assert (item["status"], response["status"]) == ("incomplete", "completed")


async def test_events() -> None:
    async with in_process(thinking_app(ScriptedEngine(steps_of(THOUGHT)))) as client:
        stream = await client.post(RESPONSES, json={"input": "hi", "stream": True})
    found = events(stream.text)
    assert kinds(found) == [
        "created", "in_progress",
        "output_item.added", "content_part.added", *["reasoning_text.delta"] * 3,
        "reasoning_text.done", "content_part.done", "output_item.done",
        "output_item.added", "content_part.added", *["output_text.delta"] * 4,
        "output_text.done", "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip
    done = next(event for event in found if event["type"] == "response.reasoning_text.done")
    assert (done["text"], done["output_index"]) == ("Hm.", 0)
    assert [item["type"] for item in found[-1]["response"]["output"]] == ["reasoning", "message"]


async def test_thoughts_of_an_earlier_response_reach_the_template() -> None:
    """Kept here, or sent back by the client."""
    engine = ScriptedEngine(steps_of(THOUGHT))
    shown = "<|assistant|><think>Hm.</think>Yes.<|user|>more"
    async with in_process(thinking_app(engine)) as client:
        first = (await client.post(RESPONSES, json={"input": "hi"})).json()
        body: Json = {"input": "more", "previous_response_id": first["id"]}
        assert (await client.post(RESPONSES, json=body)).status_code == 200
        assert shown in prompt_of(engine)
        items = [*first["output"], {"role": "user", "content": "more"}]
        said = [{**item, "id": None} for item in items]
        assert (await client.post(RESPONSES, json={"input": said})).status_code == 200
        assert shown in prompt_of(engine)
        foreign = {"type": "reasoning", "summary": [], "encrypted_content": "x"}
        alone = [foreign, {"role": "user", "content": "more"}]
        assert (await client.post(RESPONSES, json={"input": alone})).status_code == 200
        assert prompt_of(engine) == "<|user|>more<|assistant|>"


@pytest.mark.parametrize(
    ("turn", "thoughts"),
    [("rtc", "0"), ("trc", "1"), ("rtrc", "0\n\n2"), ("rcrc", "0\n\n2"), ("rrc", "0\n\n1"),
     ("trcrrc", "1\n\n3\n\n4")],
)  # fmt: skip
async def test_thoughts_anywhere_in_a_turn_reach_the_template(turn: str, thoughts: str) -> None:
    """A turn is one message to the template: reasoning (r), text (t), and calls (c)."""
    engine = ScriptedEngine(steps_of("Yes."))
    items: list[Json] = [{"role": "user", "content": "hi"}]
    for index, kind in enumerate(turn):
        text = {"type": "reasoning_text", "text": str(index)}
        items.append({
            "r": {"type": "reasoning", "summary": [], "content": [text]},
            "t": {"role": "assistant", "content": "I look."},
            "c": {"type": "function_call", "call_id": f"{index}", "name": "f", "arguments": "{}"},
        }[kind])  # fmt: skip
    calls = [index for index, kind in enumerate(turn) if kind == "c"]
    items += [{"type": "function_call_output", "call_id": f"{i}", "output": ""} for i in calls]
    async with in_process(thinking_app(engine)) as client:
        response = await client.post(RESPONSES, json={"input": items})
    assert response.status_code == 200, response.text
    assert f"<|assistant|><think>{thoughts}</think>" in prompt_of(engine)


async def test_errors_name_the_response_s_fields() -> None:
    async with in_process(thinking_app(ScriptedEngine([]), DEEPSEEK_R1)) as client:
        body = {"input": "hi", "reasoning": {"effort": "none"}}
        response = await client.post(RESPONSES, json=body)
        assert_error(response, 400, "invalid_value", "reasoning.effort")
        body = {"input": "hi", "chat_template_kwargs": {"x": 1}}
        response = await client.post(RESPONSES, json=body)
        assert_error(response, 400, "invalid_value", "chat_template_kwargs.x")


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
@pytest.mark.parametrize(
    ("template", "text"),
    [
        (QWEN3, "<think>\nHm\n</think>\n\nParis."),
        (QWEN3, "<think></think>\n\nParis.\n"),
        (QWEN3, "a </think> b"),
        (DEEPSEEK_R1, "Hm.\n</think>\n\n<th"),
        (GPT_OSS, "<|channel|>analysis<|message|>Hm<|end|><|start|>assistant<|channel|>final"
                  "<|message|>Paris.<|return|>"),
        (GPT_OSS, "<|channel|>final<|message|>a<|end|><|start|>assistant<|channel|>analysis"
                  "<|message|>b<|end|><|start|>assistant<|channel|>final<|message|>c <|"),
    ],
)  # fmt: skip
async def test_logprobs_are_those_of_the_text(template: str, text: str, size: int) -> None:
    """Each token is one character, and neither thoughts nor marks have logprobs."""

    def said(text: str) -> str:
        return text.removeprefix("\n\n")  # the server's, between two messages of one channel

    app = thinking_app(ScriptedEngine(steps_of(text, size)), template)
    fields = {"input": "hi", "include": ["message.output_text.logprobs"]}
    async with in_process(app) as client:
        whole = parse((await client.post(RESPONSES, json=fields)).json())
        stream = await client.post(RESPONSES, json={**fields, "stream": True})
    found = events(stream.text)
    for response in (whole, found[-1]["response"]):
        messages = [item for item in response["output"] if item["type"] == "message"]
        assert messages
        for message in messages:
            (part,) = message["content"]
            assert "".join(entry["token"] for entry in part["logprobs"]) == said(part["text"])
    for event in found:
        if event["type"] == "response.output_text.delta":
            assert "".join(entry["token"] for entry in event["logprobs"]) == said(event["delta"])
