"""Requests that fail as a whole: wrong model, too long, no JSON, no such path."""

import pytest

from server.text.tokenizer import Tokenizer
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
from tests.doubles import ScriptedEngine, byte_backend, one_by_one


async def test_the_message_names_field_and_value() -> None:
    response = await refused(CHAT, "messages", [{"role": "robot", "content": "hi"}])
    error = assert_error(response, 400, "invalid_value", "messages.0.role")
    assert error["message"].startswith("messages.0.role: ")
    assert "'robot'" in error["message"]


async def test_long_bad_values_are_not_sent_back_whole() -> None:
    response = await refused(CHAT, "temperature", "x" * 100_000)
    assert len(response.text) < 500


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


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100_000, b"1" * 5000, b'{"a": 01}'])
async def test_no_json(content: bytes) -> None:
    async with in_process(make_app(ScriptedEngine([]))) as client:
        headers = {"content-type": "application/json"}
        response = await client.post(CHAT, content=content, headers=headers)
    assert_error(response, 400, "invalid_json")


@pytest.mark.parametrize("content", [b"", b"null", b"[]", b"5", b'"{}"'])
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
