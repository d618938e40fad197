"""Requests that fail as a whole: wrong model, too long, no JSON, no such path."""

import re
import threading
from collections.abc import Mapping, Sequence

import pytest

from server.text.chat_template import Message, ToolSchema
from server.text.tokenizer import LONG_TEXT, Tokenizer
from tests.api.harness import (
    CHAT,
    COMPLETIONS,
    MODEL,
    assert_error,
    chat_body,
    in_process,
    make_app,
    post,
    refused,
)
from tests.doubles import PlainTemplate, ScriptedEngine, byte_backend, one_by_one


class Untouchable(Tokenizer):
    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        raise AssertionError("should have been refused before")


class ThreadSpy(Tokenizer):
    """Remembers which thread encoded."""

    thread: threading.Thread | None = None

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        self.thread = threading.current_thread()
        return super().encode(text, add_special_tokens=add_special_tokens)


class EmptyTemplate(PlainTemplate):
    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSchema] = (),
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Mapping[str, object] | None = None,
    ) -> str:
        return ""


async def test_the_message_names_field_and_value() -> None:
    response = await refused(CHAT, "messages", [{"role": "robot", "content": "hi"}])
    error = assert_error(response, 400, "invalid_value", "messages.0.role")
    assert error["message"].startswith("messages.0.role: ")
    assert "'robot'" in error["message"]


async def test_long_bad_values_are_not_sent_back_whole() -> None:
    response = await refused(CHAT, "temperature", "x" * 100_000)
    assert len(response.text) < 500


HUGE = 10**4299
"""As many digits as Python reads; one more and it won't print it."""


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[(field, 2**31) for field in ("max_tokens", "min_tokens", "top_k", "priority")],
        *[
            (field, 10 * HUGE - 1)
            for field in ("max_tokens", "min_tokens", "top_k", "seed", "priority", "n")
        ],
        *[("stop_token_ids", [value]) for value in (2**31, 10 * HUGE - 1, -HUGE)],
        ("temperature", HUGE),
        ("logit_bias", {"9" * 4300: 1}),
        ("logit_bias", {"\U000e0001" * 4300: 1}),
        ("logit_bias", {"5": HUGE}),
        ("logit_bias", {"1" * 4300: 1000}),
        ("stop", [["x" * 1000] * 1000]),
        ("stream_options", {"x" * 1000: "y" * 1000}),
        ("stream", {str(key) * 1000: "y" * 1000 for key in range(9)}),
    ],
    ids=lambda value: repr(value)[:30],
)
async def test_huge_values_are_neither_taken_nor_sent_back(
    path: str, field: str, value: object
) -> None:
    response = await refused(path, field, value)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"].startswith(field)
    assert len(error["message"]) < 300


@pytest.mark.parametrize("value", [2**31, 10 * HUGE - 1, -HUGE], ids=["int32", "huge", "negative"])
async def test_huge_prompt_ids_and_answers(value: int) -> None:
    response = await refused(COMPLETIONS, "prompt", [value])
    assert_error(response, 400, "invalid_value", "prompt.0")
    response = await refused(CHAT, "max_completion_tokens", value)
    assert_error(response, 400, "invalid_value", "max_completion_tokens")


async def test_too_many_biases() -> None:
    response = await refused(CHAT, "logit_bias", {str(key): 1 for key in range(1025)})
    error = assert_error(response, 400, "invalid_value", "logit_bias")
    assert "at most 1024" in error["message"]


async def test_contradicting_limits() -> None:
    body = chat_body(max_tokens=1, max_completion_tokens=2)
    response = await post(ScriptedEngine(one_by_one("a")), CHAT, body)
    assert_error(response, 400, "invalid_value", "max_tokens")


async def test_min_tokens_above_max_tokens() -> None:
    body = chat_body(max_tokens=1, min_tokens=2)
    response = await post(ScriptedEngine(one_by_one("a")), CHAT, body)
    assert_error(response, 400, "invalid_value", "min_tokens")


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
async def test_another_model(path: str) -> None:
    error = assert_error(await refused(path, "model", "gpt-4"), 404, "model_not_found", "model")
    assert "gpt-4" in error["message"]
    assert MODEL in error["message"]


async def test_a_token_that_only_the_tokenizer_knows() -> None:
    """It would index the embedding out of range and kill the engine for everyone."""
    backend = byte_backend()
    backend.add_tokens(["<extra>"])
    app = make_app(ScriptedEngine(one_by_one("a")), Tokenizer(backend))
    async with in_process(app) as client:
        response = await client.post(COMPLETIONS, json={"prompt": "a<extra>"})
    error = assert_error(response, 400, "invalid_value", "prompt")
    assert "'<extra>'" in error["message"]


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
async def test_what_can_never_fit_is_refused_without_tokenising(path: str) -> None:
    tokenizer = Untouchable(byte_backend())
    text = "x" * (99 * tokenizer.max_bytes_per_token + LONG_TEXT)
    body = chat_body(messages=[{"role": "user", "content": text}])
    app = make_app(ScriptedEngine([[1]], max_model_len=99), tokenizer)
    async with in_process(app) as client:
        response = await client.post(path, json=body if path == CHAT else {"prompt": text})
    param = "messages" if path == CHAT else "prompt"
    error = assert_error(response, 400, "context_length_exceeded", param)
    assert " 99 tokens of at most 4 bytes" in error["message"]


async def test_long_prompts_that_might_fit_are_tokenised_in_a_thread() -> None:
    """Even the shortest tokens are counted, not guessed."""
    tokenizer = ThreadSpy(byte_backend())
    app = make_app(ScriptedEngine([[1]], max_model_len=LONG_TEXT), tokenizer)
    async with in_process(app) as client:
        response = await client.post(COMPLETIONS, json={"prompt": "x" * (LONG_TEXT + 5)})
    error = assert_error(response, 400, "context_length_exceeded", "prompt")
    assert f" {LONG_TEXT + 5} " in error["message"]
    assert tokenizer.thread not in (None, threading.current_thread())


async def test_a_template_that_renders_nothing() -> None:
    """An empty prompt would kill the engine for everyone."""
    engine = ScriptedEngine(one_by_one("a"))
    app = make_app(engine, chat_template=EmptyTemplate())
    async with in_process(app) as client:
        response = await client.post(CHAT, json=chat_body())
    assert_error(response, 400, "invalid_value", "messages")
    assert engine.requests == []


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHAT, chat_body(messages=[{"role": "user", "content": "x" * 95}]), "messages"),
        (COMPLETIONS, {"prompt": "x" * 100}, "prompt"),
        (COMPLETIONS, {"prompt": [1] * 100}, "prompt"),
    ],
)
async def test_prompt_longer_than_the_context(path: str, body: object, param: str) -> None:
    response = await post(ScriptedEngine([[1]], max_model_len=99), path, body)
    error = assert_error(response, 400, "context_length_exceeded", param)
    assert " 99 " in error["message"]
    assert " 10" in error["message"]


async def test_prompt_and_answer_longer_than_the_context() -> None:
    engine = ScriptedEngine([[1]], max_model_len=99)
    response = await post(engine, COMPLETIONS, {"prompt": "x" * 90, "max_tokens": 10})
    error = assert_error(response, 400, "context_length_exceeded", "max_tokens")
    assert all(f"{number} " in error["message"] for number in (99, 100, 90, 10))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the body is empty"),
        (b"{", "the body is no valid JSON: .* at character 1"),
        (b'{"a":"\xff"}', "the body is not valid UTF-8 at byte 6"),
        (b"[" * 100_000, "the body is nested too deep"),
        (b"1" * 5000, "the body has a number of too many digits"),
        (b'{"a": 01}', "the body is no valid JSON"),
    ],
)
async def test_no_json(content: bytes, message: str) -> None:
    async with in_process(make_app(ScriptedEngine([]))) as client:
        headers = {"content-type": "application/json"}
        response = await client.post(CHAT, content=content, headers=headers)
    error = assert_error(response, 400, "invalid_json")
    assert re.match(message, error["message"])


@pytest.mark.parametrize("content", [b"null", b"[]", b"5", b'"{}"'])
async def test_json_but_no_object(content: bytes) -> None:
    async with in_process(make_app(ScriptedEngine([]))) as client:
        headers = {"content-type": "application/json"}
        response = await client.post(CHAT, content=content, headers=headers)
    assert_error(response, 400, "invalid_value")


async def test_wrong_content_type() -> None:
    async with in_process(make_app(ScriptedEngine([]))) as client:
        response = await client.post(CHAT, content=b"{}")
    error = assert_error(response, 400, "invalid_json")
    assert "application/json" in error["message"]


async def test_no_such_path() -> None:
    async with in_process(make_app(ScriptedEngine([]))) as client:
        assert_error(await client.get("/v2/nothing"), 404, "not_found")


async def test_wrong_method() -> None:
    async with in_process(make_app(ScriptedEngine([]))) as client:
        response = await client.get(CHAT)
    assert_error(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "POST"
