"""Long work: one piece after the other, also where the client of one has left."""

import asyncio
import threading
from typing import Any

import pytest

from server.api.generation import json_schema
from server.api.http.long_work import LongWork
from server.api.messages.schema.request import MessageRequest
from server.api.messages.translate import is_long
from tests.api.harness import CHAT, Json, chat_body, in_process
from tests.api.message_types import MESSAGES, assistant, call, message_body, result, user
from tests.api.thinking import thinking_app
from tests.doubles import ScriptedEngine
from tests.thinking import steps_of


async def test_short_work_is_done_at_once() -> None:
    assert await LongWork().run(False, threading.get_ident) == threading.get_ident()


async def test_who_leaves_does_not_let_the_next_one_in_before_its_thread_ends() -> None:
    work, may_end, started = LongWork(), threading.Event(), threading.Event()

    def first() -> None:
        started.set()
        may_end.wait(60)

    leaves = asyncio.create_task(work.run(True, first))
    await asyncio.to_thread(started.wait, 60)
    leaves.cancel()
    await asyncio.wait([leaves])
    second = asyncio.create_task(work.run(True, lambda: "second"))
    await asyncio.sleep(0.05)
    assert not second.done()
    may_end.set()
    assert await second == "second"


async def test_what_fails_is_told_and_ends_its_turn() -> None:
    work = LongWork()
    with pytest.raises(ZeroDivisionError):
        await work.run(True, lambda: 1 // 0)
    assert await work.run(True, lambda: 3) == 3


LARGE = [0] * 4000
"""Values of a body that take longer to go through than a token of another request may wait."""
SCHEMA = {"type": "object", "properties": {"a": {"enum": LARGE}}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}
MADE = {"id": "c", "type": "function", "function": {"name": "f", "arguments": {"a": LARGE}}}
OLDER = {"role": "assistant", "tool_calls": [MADE]}
VARIABLES = {"chat_template_kwargs": {"enable_thinking": LARGE}}


def tools(**fields: Any) -> Json:
    return message_body(tools=[{"name": "f", "input_schema": {"type": "object"}, **fields}])


@pytest.mark.parametrize(
    ("path", "body", "module"),
    [
        (CHAT, chat_body(**VARIABLES), "generation.thinking"),
        ("/tokenize", {"messages": [user("a")], **VARIABLES}, "generation.thinking"),
        (MESSAGES, message_body(**VARIABLES), "generation.thinking"),
        (CHAT, chat_body(tools=[TOOL]), "generation.json_schema"),
        ("/tokenize", {"messages": [user("a")], "tools": [TOOL]}, "generation.json_schema"),
        (MESSAGES, tools(input_schema=SCHEMA), "generation.json_schema"),
        (MESSAGES, tools(input_examples=[{"a": LARGE}]), "messages.translate"),
        (CHAT, chat_body(messages=[user("a"), OLDER]), "chat.messages"),
        (MESSAGES, message_body(messages=[assistant(call(a=LARGE)), user(result())]),
         "chat.messages"),
    ],
)  # fmt: skip
async def test_large_values_are_gone_through_in_a_thread(
    path: str, body: Json, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    large_in: list[int] = []

    def check_values(value: dict[str, Any], path: str) -> None:
        if json_schema.is_large(value):
            large_in.append(threading.get_ident())

    monkeypatch.setattr(f"server.api.{module}.check_values", check_values)
    async with in_process(thinking_app(ScriptedEngine(steps_of("a")))) as client:
        response = await client.post(path, json=body)
    assert response.status_code in (200, 400), response.text
    assert large_in
    assert threading.get_ident() not in large_in


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, False),
        ({"enable_thinking": False}, False),
        ("a" * 10_000, False),
        ("a" * 20_000, True),
        (["a" * 10_000] * 2, True),
        ({"a" * 20_000: 1}, True),
        ([{"a": [0] * 100}] * 5, False),
        ([{"a": [0] * 100}] * 20, True),
        ([[]] * 100_000, True),
    ],
)
def test_large_values(value: object, expected: bool) -> None:
    assert json_schema.is_large(value) == expected


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([user("a")] * 1000, False),
        ([user("a")] * 1001, True),
        ([user(*"a" * 1001)], True),
        ([assistant(call()), user(result([{"type": "text", "text": "a"}] * 990))], False),
        ([assistant(call()), user(result([{"type": "text", "text": "a"}] * 1001))], True),
    ],
)
def test_messages_of_many_blocks(messages: list[Json], expected: bool) -> None:
    body = MessageRequest.model_validate(message_body(messages=messages))
    assert is_long(body) == expected
