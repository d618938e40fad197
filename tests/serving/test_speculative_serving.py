"""The default model with a draft behind a live server: the same answers with every policy."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from server.kernels.cpu.library import native_library
from tests.live import LiveServer, serve

pytestmark = [
    pytest.mark.real_model,
    pytest.mark.skipif(
        native_library() is None, reason="only the native kernels make bfloat16 rows independent"
    ),
]

PROMPTS = (
    "Repeat after me, three times: the quick brown fox jumps over the lazy dog.",
    "Write a Python function that adds two numbers, then the same function for three numbers.",
    "List the days of the week, then list them again in reverse order.",
)


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with serve("--draft", "ngram", num_threads=2) as running:
        yield running


def answer(server: LiveServer, prompt: str, **fields: object) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": prompt}], "max_tokens": 64, **fields}
    response = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)
    assert response.status_code == 200, response.text
    return response.json()


FIELDS: tuple[dict[str, Any], ...] = (
    {"temperature": 0},
    {"temperature": 1, "seed": 3, "top_p": 0.9, "presence_penalty": 0.5, "stop": ["."]},
)


@pytest.fixture(scope="module", params=FIELDS)
def plain(request: pytest.FixtureRequest, server: LiveServer) -> list[tuple[Any, dict[str, Any]]]:
    """Fields, and what each prompt is answered without speculation."""
    off = {"speculation": {"policy": "off"}, **request.param}
    return [(request.param, answer(server, prompt, **off)) for prompt in PROMPTS]


@pytest.mark.parametrize("policy", ["chain", "cape", "beam", "auto"])
def test_no_policy_changes_an_answer(
    server: LiveServer, policy: str, plain: list[tuple[Any, dict[str, Any]]]
) -> None:
    for prompt, (fields, expected) in zip(PROMPTS, plain, strict=True):
        got = answer(server, prompt, speculation={"policy": policy}, **fields)
        assert "speculation" not in expected
        assert got["choices"] == expected["choices"]
        assert got["usage"]["completion_tokens"] == expected["usage"]["completion_tokens"]


def test_a_repetitive_answer_takes_fewer_steps_and_is_counted(server: LiveServer) -> None:
    got = answer(server, PROMPTS[2], temperature=0, speculation={"policy": "chain", "max_depth": 4})
    said = got["speculation"]
    assert said["accepted_tokens"] > 0
    assert said["tokens_per_step"] > 1
    assert sum(said["accepted_per_position"]) == said["accepted_tokens"]
    assert len(said["accepted_per_position"]) <= 4
    assert server.metric("spec_decode_num_accepted_tokens_total") >= said["accepted_tokens"]
    assert server.metric("spec_decode_plain_seconds_total") > 0


def test_without_a_draft_a_policy_is_refused() -> None:
    with serve("--draft", "none") as plain:
        body = {"messages": [{"role": "user", "content": "Hi"}], "speculation": {"policy": "cape"}}
        response = httpx.post(f"{plain.url}/v1/chat/completions", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "speculation.policy"
    assert "draft" in response.json()["error"]["message"]
