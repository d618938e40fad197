"""What of an answer's end and of a prompt's beginning is kept: `include_stop_str_in_output`,
`skip_special_tokens`, `truncate_prompt_tokens`."""

from typing import Any

import pytest

from tests.api.harness import (
    CHAT,
    COMPLETIONS,
    Json,
    assert_error,
    chat_body,
    chunks,
    in_process,
    make_app,
)
from tests.api.response_types import RESPONSES, events
from tests.api.thinking import answer as thinking_answer
from tests.doubles import BOS, BOS_ID, EOS, EOS_ID, ScriptedEngine, ids, one_by_one

PATHS = [CHAT, COMPLETIONS, RESPONSES]


async def text_of(path: str, steps: list[list[int]], **fields: Any) -> tuple[str, Json]:
    """(an answer's text, the answer), the same whole and streamed."""
    body = {CHAT: chat_body(), COMPLETIONS: {"prompt": "hi"}, RESPONSES: {"input": "hi"}}[path]
    async with in_process(make_app(ScriptedEngine(steps))) as client:
        whole = (await client.post(path, json={**body, **fields})).json()
        stream = await client.post(path, json={**body, "stream": True, **fields})
    if path == RESPONSES:
        text = whole["output"][0]["content"][0]["text"]
        deltas = [e for e in events(stream.text) if e["type"] == "response.output_text.delta"]
        assert "".join(delta["delta"] for delta in deltas) == text
        return text, whole
    choices = [choice for chunk in chunks(stream.text) for choice in chunk["choices"]]
    (choice,) = whole["choices"]
    text = choice["text"] if path == COMPLETIONS else choice["message"]["content"]
    pieces = [c["text"] if path == COMPLETIONS else c["delta"].get("content") for c in choices]
    assert "".join(piece or "" for piece in pieces) == text
    return text, whole


@pytest.mark.parametrize("path", PATHS)
async def test_a_stop_string_can_be_shown(path: str) -> None:
    steps = one_by_one("one STOP two")
    text, whole = await text_of(path, steps, stop="STOP", include_stop_str_in_output=True)
    assert text == "one STOP"
    assert (await text_of(path, steps, stop="STOP"))[0] == "one "
    if path != RESPONSES:
        assert whole["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("path", PATHS)
async def test_a_stop_token_can_be_shown(path: str) -> None:
    """A special one if special tokens are."""
    steps = one_by_one("one")
    assert (await text_of(path, steps, include_stop_str_in_output=True))[0] == "one"
    shown, _ = await text_of(
        path, steps, include_stop_str_in_output=True, skip_special_tokens=False
    )
    assert shown == f"one{EOS}"


@pytest.mark.parametrize("path", PATHS)
async def test_special_tokens_can_be_shown(path: str) -> None:
    steps = [[*ids("a"), BOS_ID], [*ids("b"), EOS_ID]]
    assert (await text_of(path, steps))[0] == "ab"
    assert (await text_of(path, steps, skip_special_tokens=True))[0] == "ab"
    assert (await text_of(path, steps, skip_special_tokens=False))[0] == f"a{BOS}b"


async def test_a_shown_stop_string_has_its_logprobs() -> None:
    steps = one_by_one("one STOP two")
    fields = {"stop": "STOP", "include_stop_str_in_output": True, "logprobs": 0}
    _, whole = await text_of(COMPLETIONS, steps, **fields)
    assert "".join(whole["choices"][0]["logprobs"]["tokens"]) == "one STOP"


async def test_a_stop_string_behind_the_thinking_can_be_shown() -> None:
    text = "<think>STOP</think>a STOP b"
    response = await thinking_answer(text, stop="STOP", include_stop_str_in_output=True)
    message = response.json()["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("STOP", "a STOP")


async def prompt_ids(path: str, text: str, **fields: Any) -> list[int]:
    """The prompt that reaches an engine with a context of 64 tokens."""
    engine = ScriptedEngine(one_by_one("x"), max_model_len=64)
    body = {"prompt": text}
    if path == CHAT:
        body = chat_body(messages=[{"role": "user", "content": text}])
    async with in_process(make_app(engine)) as client:
        response = await client.post(path, json={**body, **fields})
    assert response.status_code == 200, response.text
    return list(engine.requests[0].prompt_token_ids)


@pytest.mark.parametrize("size", [40, 5_000, 100_000])
async def test_the_last_tokens_of_a_prompt_are_kept(size: int) -> None:
    """Of long texts too, which are cut before they are encoded."""
    text = "".join(chr(97 + i % 26) for i in range(size))
    kept = await prompt_ids(COMPLETIONS, text, truncate_prompt_tokens=10)
    assert kept == ids(text)[-10:]
    kept = await prompt_ids(COMPLETIONS, text, truncate_prompt_tokens=-1, max_tokens=30)
    assert kept == ids(text)[-34:]
    kept = await prompt_ids(CHAT, text, truncate_prompt_tokens=10)
    assert kept == ids(f"user:{text}\n")[-10:]
    kept = await prompt_ids(CHAT, text, truncate_prompt_tokens=-1)
    assert kept == ids(f"user:{text}\n")[-63:]


async def test_token_ids_are_truncated_too_and_echo_shows_what_is_left() -> None:
    assert await prompt_ids(COMPLETIONS, "", prompt=[1, 2, 3], truncate_prompt_tokens=2) == [2, 3]
    engine = ScriptedEngine(one_by_one("x"))
    async with in_process(make_app(engine)) as client:
        body = {"prompt": "abc", "echo": True, "truncate_prompt_tokens": 2, "logprobs": 0}
        answer = (await client.post(COMPLETIONS, json=body)).json()
    assert answer["choices"][0]["text"] == "bcx"
    assert answer["usage"]["prompt_tokens"] == 2


@pytest.mark.parametrize("value", [0, -2, 65, "1"])
async def test_bad_limits(value: object) -> None:
    engine = ScriptedEngine([], max_model_len=64)
    async with in_process(make_app(engine)) as client:
        body = {"prompt": "abc", "truncate_prompt_tokens": value}
        response = await client.post(COMPLETIONS, json=body)
    assert_error(response, 400, "invalid_value", "truncate_prompt_tokens")
