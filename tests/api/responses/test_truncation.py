"""`truncation: auto` of `/v1/responses`: the oldest messages go until the conversation fits."""

from typing import Any

import pytest

from tests.api.harness import Json, assert_error, in_process, make_app, post
from tests.api.response_types import RESPONSES, ask, prompt_text
from tests.doubles import ScriptedEngine, one_by_one

ROOM = 200
"""Bytes, each of which is a token, of the context."""


def turn(number: int, size: int = 30) -> list[Json]:
    text = f"{number:02}".ljust(size, ".")
    return [{"role": "user", "content": text}, {"role": "assistant", "content": text}]


async def kept(given: list[Json], **fields: Any) -> str:
    """The prompt that is left."""
    engine = ScriptedEngine(one_by_one("a"), max_model_len=ROOM)
    async with in_process(make_app(engine)) as client:
        response = await ask(client, given, truncation="auto", **fields)
    assert response["truncation"] == "auto"
    return prompt_text(engine)


def text_of(given: list[Json]) -> str:
    return "".join(f"{each['role']}:{each['content']}\n" for each in given)


async def test_what_fits_is_kept_whole() -> None:
    given = [*turn(1), {"role": "user", "content": "now"}]
    assert await kept(given) == text_of(given)


@pytest.mark.parametrize("num_turns", [3, 7, 40])
@pytest.mark.parametrize("max_output_tokens", [1, 20, 100])
async def test_as_much_as_fits_of_the_end(num_turns: int, max_output_tokens: int) -> None:
    given = [message for number in range(num_turns) for message in turn(number)]
    given.append({"role": "user", "content": "now"})
    system: Json = {"role": "system", "content": "Be kind."}
    prompt = await kept([system, *given], instructions="Now.", max_output_tokens=max_output_tokens)
    ends = [
        text_of([{"role": "system", "content": "Now."}, system, *given[begin:]])
        for begin in range(0, len(given), 2)
    ]
    assert prompt == next(end for end in ends if len(end) + max_output_tokens <= ROOM)


async def test_no_result_is_left_without_its_call() -> None:
    """Where the user spoke once alone, the turns of the assistant may go."""
    calls: list[Json] = []
    for number in range(4):
        name = {"call_id": str(number), "name": "f"}
        calls.append({"type": "function_call", **name, "arguments": "{}"})
        calls.append({"type": "function_call_output", "call_id": str(number), "output": "x" * 20})
    prompt = await kept([{"role": "user", "content": "go"}, *calls])
    assert prompt.startswith("assistant:<tool_call>")
    assert prompt.count("<tool_call>") == prompt.count("<tool_response>") > 0


async def test_a_last_message_that_is_too_long_is_refused() -> None:
    body = {"input": [*turn(1), *turn(2, ROOM)[:1]], "truncation": "auto"}
    engine = ScriptedEngine(one_by_one("a"), max_model_len=ROOM)
    assert_error(await post(engine, RESPONSES, body), 400, "context_length_exceeded", "input")
    assert engine.requests == []


async def test_whole_conversations_are_kept_in_the_store() -> None:
    engine = ScriptedEngine(one_by_one("a"), max_model_len=ROOM)
    async with in_process(make_app(engine)) as client:
        first = await ask(client, turn(1)[:1])
        for number in range(2, 8):
            first = await ask(
                client, turn(number)[:1], previous_response_id=first["id"], truncation="auto"
            )
        listed = (await client.get(f"{RESPONSES}/{first['id']}/input_items")).json()
    assert len(listed["data"]) == 13
    assert len(prompt_text(engine)) < ROOM
