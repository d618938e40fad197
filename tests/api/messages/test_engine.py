"""`/v1/messages` over a real engine with a tiny random model."""

from dataclasses import replace
from typing import Any

import pytest

from tests.api.harness import CHAT, Json
from tests.api.message_types import COUNT, MESSAGES, message_body, parse
from tests.api.tiny_server import LIMITS, SPEAKING, TinyServer, tiny_server

CACHED = {"cache_control": {"type": "ephemeral"}}
SYSTEM = "Be kind, brief and quick, and say nothing that is wrong. " * 3


async def usage(server: TinyServer, **fields: Any) -> Json:
    answer = await server.post(MESSAGES, **message_body(**{"max_tokens": 4, **fields}))
    parse(answer)
    return answer["usage"]


async def test_the_prompts_tokens_add_up() -> None:
    info = replace(SPEAKING, cache_block=LIMITS.block_size)
    async with tiny_server(info=info) as server:
        body: Json = {"system": [{"type": "text", "text": SYSTEM, **CACHED}]}
        count = await server.post(COUNT, **message_body(**body))
        first, again = [await usage(server, **body) for _ in range(2)]
        longer = await usage(
            server, **body, messages=[{"role": "user", "content": "hi there!" * 4}]
        )
        unmarked = await usage(server, system=f"Other words. {SYSTEM}")
    num_prompt = count["input_tokens"]
    full = num_prompt // LIMITS.block_size * LIMITS.block_size
    assert first["cache_read_input_tokens"] == 0
    assert first["cache_creation_input_tokens"] == full
    assert again["cache_read_input_tokens"] == full
    assert again["cache_creation_input_tokens"] == 0
    for each in (first, again):
        assert _prompt_tokens(each) == num_prompt
    assert longer["cache_read_input_tokens"] > 0
    assert longer["cache_creation_input_tokens"] > 0
    assert unmarked["cache_creation_input_tokens"] == 0
    assert unmarked["cache_read_input_tokens"] == len("syst") == LIMITS.block_size


def _prompt_tokens(found: Json) -> int:
    return (
        found["input_tokens"]
        + found["cache_creation_input_tokens"]
        + found["cache_read_input_tokens"]
    )


@pytest.mark.parametrize("temperature", [0, 1])
async def test_it_says_what_a_chat_says(temperature: float) -> None:
    shared: Json = {
        "temperature": temperature,
        "seed": 5,
        "max_tokens": 24,
        "return_token_ids": True,
    }
    async with tiny_server() as server:
        chat = await server.post(
            CHAT,
            messages=[{"role": "system", "content": "a"}, {"role": "user", "content": "hi"}],
            **shared,
        )
        message = await server.post(MESSAGES, **message_body(system="a", **shared))
    (choice,) = chat["choices"]
    assert message["prompt_token_ids"] == chat["prompt_token_ids"]
    assert message["token_ids"] == choice["token_ids"]
    assert message["content"] == [{"type": "text", "text": choice["message"]["content"]}]


async def test_a_prompt_can_be_put_into_the_cache_alone() -> None:
    async with tiny_server() as server:
        warm = await server.post(MESSAGES, **message_body(system=SYSTEM, max_tokens=0))
        after = await usage(server, system=SYSTEM)
    parse(warm)
    assert (warm["content"], warm["stop_reason"]) == ([], "max_tokens")
    assert warm["usage"]["output_tokens"] == 0
    assert after["cache_read_input_tokens"] > len(SYSTEM)
