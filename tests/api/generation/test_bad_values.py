"""Bad values, field by field: a 400 in OpenAI's shape that names the field."""

import math
from typing import Any

import pytest

from tests.api.harness import CHAT, COMPLETIONS, assert_error, refused
from tests.doubles import EOS_ID

USER = {"role": "user", "content": "hi"}


def message(**fields: object) -> list[dict[str, object]]:
    return [{**USER, **fields}]


SHARED_BAD: list[tuple[str, Any]] = [
    *[
        (field, value)
        for field in ("temperature", "top_p", "min_p", "presence_penalty", "repetition_penalty")
        for value in ("1", True, [], math.nan, math.inf, -math.inf, -3, 101)
    ],
    *[
        (field, value)
        for field in ("max_tokens", "min_tokens", "top_k", "seed", "priority", "n")
        for value in ("1", True, 1.5, -(10**40), {})
    ],
    ("max_tokens", 0),
    ("max_tokens", -1),
    ("n", 0),
    ("n", 129),
    ("cache_salt", ""),
    ("cache_salt", 1),
    ("cache_salt", "x" * 1025),
    ("return_token_ids", 1),
    ("top_k", -2),
    ("top_p", -0.1),
    ("frequency_penalty", 2.01),
    ("repetition_penalty", 0),
    ("seed", 2**63),
    ("stream", 1),
    ("stream", "true"),
    ("ignore_eos", "no"),
    ("stop", 5),
    ("stop", ""),
    ("stop", ["a"] * 17),
    ("stop", "\ud800"),
    ("user", 1),
    ("model", 1),
    ("logit_bias", [1]),
    ("logit_bias", {"a": 1}),
    ("logit_bias", {"01": 1}),
    ("logit_bias", {"-1": 1}),
    ("logit_bias", {str(EOS_ID + 1): 1}),
    ("logit_bias", {"9" * 50: 1}),
    ("stop_token_ids", 5),
    ("stream_options", {}),
    ("stream_options", {"include_usage": True}),
    ("stream_options", 1),
]

NESTED_BAD: list[tuple[str, Any, str]] = [
    ("stop", ["a", ""], "stop.1"),
    ("stop", [1], "stop.0"),
    ("stop_token_ids", [1, -1], "stop_token_ids.1"),
    ("stop_token_ids", [EOS_ID + 1], "stop_token_ids.0"),
    ("stop_token_ids", ["1"], "stop_token_ids.0"),
    ("logit_bias", {"5": 101}, "logit_bias.5"),
    ("logit_bias", {"5": math.nan}, "logit_bias.5"),
    ("logit_bias", {"5": "1"}, "logit_bias.5"),
    ("stream_options", {"include_usage": 1}, "stream_options.include_usage"),
]

CHAT_BAD: list[tuple[str, Any, str]] = [
    ("messages", [], "messages"),
    ("messages", None, "messages"),
    ("messages", "hi", "messages"),
    ("messages", [1], "messages.0"),
    ("messages", [{"content": "hi"}], "messages.0.role"),
    ("messages", [{"role": "user"}], "messages.0.content"),
    ("messages", [USER, {"role": "robot", "content": "hi"}], "messages.1.role"),
    ("messages", message(role=[]), "messages.0.role"),
    ("messages", message(content=5), "messages.0.content"),
    ("messages", message(content="\ud800"), "messages.0.content"),
    ("messages", message(content=[{"type": "text"}]), "messages.0.content.0.text"),
    ("messages", message(content=[{"type": "text", "text": 1}]), "messages.0.content.0.text"),
    ("messages", message(content=["hi"]), "messages.0.content.0"),
    ("messages", message(name=1), "messages.0.name"),
    ("messages", message(role="assistant"), "messages"),
    ("messages", message(role="assistant", reasoning="\ud800"), "messages.0.reasoning"),
    ("max_completion_tokens", 0, "max_completion_tokens"),
    ("max_completion_tokens", "5", "max_completion_tokens"),
    ("logprobs", 1, "logprobs"),
    ("top_logprobs", 5, "top_logprobs"),
    ("metadata", {"a": 1}, "metadata.a"),
    ("metadata", {str(key): "" for key in range(17)}, "metadata"),
]

COMPLETION_BAD: list[tuple[str, Any, str]] = [
    ("prompt", None, "prompt"),
    ("prompt", 5, "prompt"),
    ("prompt", [], "prompt"),
    ("prompt", [[]], "prompt.0"),
    ("prompt", ["a", [1]], "prompt.1"),
    ("prompt", ["a", 1], "prompt.1"),
    ("prompt", [[1], "a"], "prompt.1"),
    ("prompt", [[1], [2, -1]], "prompt.1.1"),
    ("prompt", [[1], [EOS_ID + 1]], "prompt.1.0"),
    ("prompt", ["a"] * 1025, "prompt"),
    ("prompt", ["a", "\ud800"], "prompt.1"),
    ("echo", 1, "echo"),
    ("best_of", True, "best_of"),
    ("best_of", 0, "best_of"),
    ("best_of", 129, "best_of"),
    ("prompt", [1, "a"], "prompt.1"),
    ("prompt", [1.0], "prompt.0"),
    ("prompt", [0, EOS_ID + 1], "prompt.1"),
    ("prompt", [-1], "prompt.0"),
    ("logprobs", True, "logprobs"),
    ("logprobs", -1, "logprobs"),
    ("logprobs", 21, "logprobs"),
]

UNSUPPORTED_CHAT: list[tuple[str, Any, str]] = [
    ("functions", [{"name": "f"}], "functions"),
    ("function_call", {"name": "f"}, "function_call"),
    ("modalities", ["text", "audio"], "modalities"),
    ("audio", {"voice": "x"}, "audio"),
    ("moderation", {"model": "x"}, "moderation"),
    ("messages", message(audio={"id": "a"}), "messages.0.audio"),
    ("messages", message(function_call={"name": "f"}), "messages.0.function_call"),
    ("web_search_options", {"a": 1}, "web_search_options"),
    # Options that are all left to their defaults ask for what they are options of.
    ("web_search_options", {}, "web_search_options"),
    ("audio", {}, "audio"),
    ("moderation", {}, "moderation"),
    ("messages", message(role="function"), "messages.0.role"),
    (
        "messages",
        message(content=[{"type": "image_url", "image_url": {"url": "x"}}]),
        "messages.0.content.0.type",
    ),
]

UNSUPPORTED_COMPLETION: list[tuple[str, Any, str]] = [
    ("suffix", "x", "suffix"),
]


def label(value: object) -> str:
    return repr(value)[:40].encode(errors="backslashreplace").decode()


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize(("field", "value"), SHARED_BAD, ids=label)
async def test_bad_value(path: str, field: str, value: object) -> None:
    error = assert_error(await refused(path, field, value), 400, "invalid_value", field)
    assert field in error["message"]


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize(("field", "value", "param"), NESTED_BAD, ids=label)
async def test_bad_nested_value(path: str, field: str, value: object, param: str) -> None:
    assert_error(await refused(path, field, value), 400, "invalid_value", param)


@pytest.mark.parametrize(("field", "value", "param"), CHAT_BAD, ids=label)
async def test_bad_chat_value(field: str, value: object, param: str) -> None:
    assert_error(await refused(CHAT, field, value), 400, "invalid_value", param)


@pytest.mark.parametrize(("field", "value", "param"), COMPLETION_BAD, ids=label)
async def test_bad_completion_value(field: str, value: object, param: str) -> None:
    assert_error(await refused(COMPLETIONS, field, value), 400, "invalid_value", param)


@pytest.mark.parametrize(("field", "value", "param"), UNSUPPORTED_CHAT, ids=label)
async def test_unsupported_in_chat(field: str, value: object, param: str) -> None:
    assert_error(await refused(CHAT, field, value), 400, "unsupported_field", param)


@pytest.mark.parametrize(("field", "value", "param"), UNSUPPORTED_COMPLETION, ids=label)
async def test_unsupported_in_completions(field: str, value: object, param: str) -> None:
    assert_error(await refused(COMPLETIONS, field, value), 400, "unsupported_field", param)


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("field", ["chat_template", "temprature", "with.dot", "é"])
async def test_unknown_field(path: str, field: str) -> None:
    assert_error(await refused(path, field, 1), 400, "unknown_field", field)


async def test_unknown_field_that_is_no_unicode() -> None:
    response = await refused(CHAT, "\ud800", 1)
    assert response.status_code == 400


async def test_unknown_field_in_a_message() -> None:
    response = await refused(CHAT, "messages", message(mood="good"))
    assert_error(response, 400, "unknown_field", "messages.0.mood")
