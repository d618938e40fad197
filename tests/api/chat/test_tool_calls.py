"""Calls in answers: whole and streamed, with finish reasons, logprobs and token counts."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.api.harness import CHAT, MODEL, Json, chunks, in_process, make_app, post
from tests.api.response_types import ask
from tests.api.tiny_server import tiny_server
from tests.api.tool_chats import ROME, WEATHER, call_text, choice, function, says, tool_body
from tests.doubles import EOS_ID, PlainTemplate, ids, one_by_one

FLAT_WEATHER: Json = {"type": "function", **WEATHER["function"]}
CHOSEN: Json = {"name": "weather"}


async def whole(text: str, **fields: Any) -> Json:
    response = await post(says(one_by_one(text)), CHAT, tool_body(**fields))
    assert response.status_code == 200, response.text
    answer: Json = response.json()
    return answer["choices"][0]


async def streamed(steps: list[list[int]], **fields: Any) -> list[Json]:
    """The choices of all chunks that have one."""
    response = await post(says(steps), CHAT, tool_body(stream=True, **fields))
    assert response.status_code == 200, response.text
    return [chunk["choices"][0] for chunk in chunks(response.text) if chunk["choices"]]


async def test_a_call() -> None:
    found = await whole(call_text())
    (call,) = found["message"]["tool_calls"]
    assert call.pop("id").startswith("call_")
    assert call == {"type": "function", "function": {"name": "weather", "arguments": ROME}}
    assert found["message"] == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "tool_calls": found["message"]["tool_calls"],
    }
    assert found["finish_reason"] == "tool_calls"


async def test_text_and_several_calls() -> None:
    found = await whole(f"Let me.\n{call_text()}\n{call_text('clock', '{}')}")
    assert found["message"]["content"] == "Let me.\n"
    names = [call["function"]["name"] for call in found["message"]["tool_calls"]]
    assert names == ["weather", "clock"]
    assert len({call["id"] for call in found["message"]["tool_calls"]}) == 2


@pytest.mark.parametrize("text", ["Sunny.", "", call_text("other"), "<tool_call>no</tool_call>"])
async def test_an_answer_without_calls_is_as_ever(text: str) -> None:
    found = await whole(text)
    assert found["message"] == {"role": "assistant", "content": text, "refusal": None}
    assert found["finish_reason"] == "stop"


async def test_none_leaves_the_text_alone() -> None:
    found = await whole(call_text(), tool_choice="none")
    assert found["message"] == {"role": "assistant", "content": call_text(), "refusal": None}
    assert found["finish_reason"] == "stop"


async def test_a_call_outside_of_the_allowed_ones_is_text() -> None:
    allowed = {"mode": "auto", "tools": [choice("clock")]}
    tool_choice = {"type": "allowed_tools", "allowed_tools": allowed}
    found = await whole(call_text(), tool_choice=tool_choice)
    assert found["message"]["content"] == call_text()


@pytest.mark.parametrize(
    ("tool_choice", "reason"),
    [("auto", "tool_calls"), ("required", "tool_calls"), (choice("weather"), "stop")],
)
async def test_finish_reason(tool_choice: object, reason: str) -> None:
    found = await whole(call_text(), tool_choice=tool_choice)
    assert found["finish_reason"] == reason
    steps = one_by_one(call_text())
    assert (await streamed(steps, tool_choice=tool_choice))[-1]["finish_reason"] == reason
    # Cut short: what there is of the call is given out, and why it is no more.
    response = await post(
        says(one_by_one(call_text())[:50]), CHAT, tool_body(tool_choice=tool_choice)
    )
    cut = response.json()["choices"][0]
    assert cut["finish_reason"] == "length"
    arguments = cut["message"]["tool_calls"][0]["function"]["arguments"]
    assert ROME.startswith(arguments) and 0 < len(arguments) < len(ROME)


@pytest.mark.parametrize("tool_choice", ["required", choice("weather")])
async def test_what_is_to_be_a_call_is_never_content(tool_choice: object) -> None:
    """Wherever `max_tokens` cuts it, whole and streamed, in chats and in responses."""
    text = call_text() + "\n" + call_text()
    cuts = [*range(1, 48, 5), len(call_text()) + 1, len(call_text()) + 9, len(call_text()) + 30]
    for cut in cuts:
        steps, fields = [ids(text[:cut])], {"tool_choice": tool_choice}
        response = await post(says(steps), CHAT, tool_body(**fields))
        message = response.json()["choices"][0]["message"]
        assert message["content"] is None
        expected = int(cut > text.index(ROME))
        assert len(message.get("tool_calls", ())) == expected
        assert not any(part["delta"].get("content") for part in await streamed(steps, **fields))
        async with in_process(make_app(says(steps))) as client:
            flat = tool_choice if isinstance(tool_choice, str) else {"type": "function", **CHOSEN}
            found = await ask(client, tools=[FLAT_WEATHER], tool_choice=flat)
        assert [item["type"] for item in found["output"]] == ["function_call"] * expected
        assert found["status"] == "incomplete"


async def test_a_model_that_must_call_never_speaks() -> None:
    """One with random weights, held by the grammar alone."""
    async with tiny_server() as server:
        server.app.state.parts.chat_template.knows_tools = True  # says nothing of them
        for max_tokens in (1, 9, 20, 33):
            fields = tool_body(tool_choice="required", max_tokens=max_tokens, seed=max_tokens)
            found = (await server.post(CHAT, **fields))["choices"][0]
            assert found["finish_reason"] == "length"
            assert found["message"]["content"] is None


async def test_deltas() -> None:
    """To the letter: the first has the role, a call's first its name, the others more of it."""
    steps = [ids("Hm. <tool_call>"), ids(call_text()[11:]), ids("bye"), [EOS_ID]]
    found = await streamed(steps)
    call_id = found[2]["delta"]["tool_calls"][0].pop("id")
    assert call_id.startswith("call_")
    assert [choice["delta"] for choice in found] == [
        {"role": "assistant", "content": None},
        {"content": "Hm. "},
        {
            "tool_calls": [
                {"index": 0, "type": "function", "function": {"name": "weather", "arguments": ""}}
            ]
        },
        {"tool_calls": [{"index": 0, "function": {"arguments": ROME}}]},
        {"content": "bye"},
        {},
    ]
    assert [choice["finish_reason"] for choice in found] == [None] * 5 + ["tool_calls"]


async def test_arguments_come_as_they_are_written() -> None:
    found = await streamed(one_by_one(call_text()))
    calls = [choice["delta"]["tool_calls"][0] for choice in found[1:-1]]
    parts = [call["function"]["arguments"] for call in calls]
    assert "".join(parts) == ROME
    # A part for each character; the smiley's four bytes are four tokens.
    assert parts == ["", *ROME]


def joined(found: list[Json]) -> tuple[str, list[tuple[str, str]]]:
    """What a client puts together from deltas → content, and each call's name and arguments."""
    content, calls = "", list[tuple[str, str]]()
    for choice_ in found:
        delta = choice_["delta"]
        content += delta.get("content") or ""
        for part in delta.get("tool_calls", ()):
            if part["index"] == len(calls):
                assert part["id"] and part["type"] == "function"
                calls.append((part["function"]["name"], ""))
            name, arguments = calls[part["index"]]
            calls[part["index"]] = (name, arguments + part["function"]["arguments"])
    return content, calls


TEXTS = st.lists(
    st.sampled_from(
        ["Hi. ", "\n", call_text(), call_text("clock", "{}"), "<tool_call>", "{", '"name"', "é🙂"]
    ),
    max_size=6,
).map("".join)


@settings(deadline=None)
@given(TEXTS, st.lists(st.integers(1, 20), min_size=1, max_size=5))
async def test_the_stream_is_the_whole_answer(text: str, sizes: list[int]) -> None:
    """However many tokens a step brings."""
    token_ids = [*ids(text), EOS_ID]
    steps: list[list[int]] = []
    while token_ids:
        size = sizes[len(steps) % len(sizes)]
        steps.append(token_ids[:size])
        token_ids = token_ids[size:]
    message = (await whole(text))["message"]
    calls = [
        (call["function"]["name"], call["function"]["arguments"])
        for call in message.get("tool_calls", ())
    ]
    assert joined(await streamed(steps)) == (message["content"] or "", calls)


async def test_logprobs_are_of_every_token() -> None:
    text = f"Hm. {call_text()}"
    fields: Json = {"logprobs": True, "top_logprobs": 1}
    expected = [*text.encode()]
    found = await whole(text, **fields)
    assert [byte for entry in found["logprobs"]["content"] for byte in entry["bytes"]] == expected
    parts = await streamed(one_by_one(text), **fields)
    entries = [entry for part in parts for entry in (part["logprobs"] or {}).get("content", ())]
    assert [byte for entry in entries for byte in entry["bytes"]] == expected


async def test_usage_counts_every_token() -> None:
    engine = says(one_by_one(call_text()))
    usage = (await post(engine, CHAT, tool_body())).json()["usage"]
    assert usage["completion_tokens"] == len(call_text().encode()) + 1


async def test_a_stop_string_is_found_in_calls_too() -> None:
    found = await whole(call_text(), stop=["🙂"])
    assert found["message"]["tool_calls"][0]["function"]["arguments"] == '{"city": "Rom '
    assert found["finish_reason"] == "stop"  # and not by a call that can be carried out


async def test_a_stop_string_behind_a_call() -> None:
    found = await whole(call_text(), stop=["</tool_call>"])
    assert json.loads(found["message"]["tool_calls"][0]["function"]["arguments"])
    assert found["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("llama3", f'{{"name": "weather", "parameters": {ROME}}}'),
        ("mistral", f'[TOOL_CALLS] [{{"name": "weather", "arguments": {ROME}}}]'),
        ("mistral_args", f"[TOOL_CALLS]weather[ARGS]{ROME}"),
        ("smollm2", f'<tool_call>[\n{{"name": "weather", "arguments": {ROME}}}\n]</tool_call>'),
    ],
)
async def test_forms(form: Any, text: str) -> None:
    app = make_app(says(one_by_one(text)), chat_template=PlainTemplate(form))
    async with in_process(app) as client:
        response = await client.post(CHAT, json=tool_body(model=MODEL))
    (choice_,) = response.json()["choices"]
    assert choice_["message"]["content"] is None
    (call,) = choice_["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == json.loads(ROME)


async def test_no_arguments_are_an_empty_object() -> None:
    found = await whole('<tool_call>{"name": "f"}</tool_call>', tools=[function()])
    assert found["message"]["tool_calls"][0]["function"]["arguments"] == "{}"
