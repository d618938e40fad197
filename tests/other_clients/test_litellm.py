"""`litellm`, unchanged, against a live server that runs in the project's own environment.

At its import it reads a list of prices from the network, and it can send reports: both are off.
"""

import importlib
import json
import os
import subprocess
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import httpx
import pytest

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

# Untyped: it is only partly annotated, and in another environment.
litellm: Any = importlib.import_module("litellm")

litellm.telemetry = False
litellm.suppress_debug_info = True

MODEL = "tiny/model"
TEXT = "Grüße 🙂"
HI = [{"role": "user", "content": "hi"}]
SAYING_IT: dict[str, Any] = {"extra_body": {"choice": [TEXT]}}
"""The model is random: a grammar leaves it one answer."""
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Rom 🙂"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
NAMED = {"type": "function", "function": {"name": "weather"}}
Server = Callable[..., dict[str, Any]]
"""Arguments of a request → all that litellm needs for it."""


@pytest.fixture(scope="module")
def url() -> Generator[str]:
    """The server's, which ends with its standard input."""
    process = subprocess.Popen(
        [os.environ["SERVER_PYTHON"], "-m", "tests.other_clients.serve"],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 0


@pytest.fixture
def server(url: str) -> Server:
    common = {
        "model": f"openai/{MODEL}",
        "api_base": f"{url}/v1",
        "api_key": "none",
        "num_retries": 0,
        "messages": HI,
        "max_tokens": 200,
    }
    return lambda **fields: {**common, **fields}


def arguments(call: Any) -> object:
    assert call.function.name == "weather"
    return json.loads(call.function.arguments)


def test_completion(server: Server) -> None:
    asked = server(temperature=0.5, seed=7, max_completion_tokens=200, **SAYING_IT)
    answer = litellm.completion(**asked)
    assert answer.choices[0].message.content == TEXT
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens == len(TEXT.encode()) + 1


def test_extensions_are_passed_on(url: str, server: Server) -> None:
    """Sampling of a random model: seeds and a field that OpenAI lacks change its answer, as they do
    where no litellm is between."""
    body = {"model": MODEL, "messages": HI, "max_tokens": 30, "seed": 7, "top_k": 2}
    direct = httpx.post(f"{url}/v1/chat/completions", json=body).json()
    texts = [
        litellm.completion(**server(seed=seed, max_tokens=30, extra_body={"top_k": top_k}))
        .choices[0]
        .message.content
        for seed, top_k in ((7, 2), (8, 2), (7, 100))
    ]
    assert texts[0] == direct["choices"][0]["message"]["content"]
    assert len(set(texts)) == 3


def test_streaming(server: Server) -> None:
    asked = server(stream=True, stream_options={"include_usage": True}, **SAYING_IT)
    found = list(litellm.completion(**asked))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in found) == TEXT
    counts = [chunk.usage.completion_tokens for chunk in found if getattr(chunk, "usage", None)]
    assert counts == [len(TEXT.encode()) + 1]


def test_text_completion(server: Server) -> None:
    asked = server(prompt="x", model=f"text-completion-openai/{MODEL}", **SAYING_IT)
    del asked["messages"]
    assert litellm.text_completion(**asked).choices[0].text == TEXT


def test_a_named_tool_is_called(server: Server) -> None:
    answer = litellm.completion(**server(tools=[WEATHER], tool_choice=NAMED))
    (call,) = answer.choices[0].message.tool_calls
    assert arguments(call) == {"city": "Rom 🙂"}


def test_a_streamed_call(server: Server) -> None:
    asked = server(stream=True, tools=[WEATHER], tool_choice="required", parallel_tool_calls=False)
    answer = litellm.stream_chunk_builder(list(litellm.completion(**asked)))
    (call,) = answer.choices[0].message.tool_calls
    assert arguments(call) == {"city": "Rom 🙂"}
    assert answer.choices[0].finish_reason == "tool_calls"


def test_the_tool_loop(url: str, server: Server) -> None:
    """The answer's own message goes back, with all that litellm adds to it."""
    messages: list[Any] = [{"role": "user", "content": "Weather?"}]
    first = litellm.completion(**server(messages=messages, tools=[WEATHER], tool_choice=NAMED))
    message = first.choices[0].message
    (call,) = message.tool_calls
    messages += [message, {"role": "tool", "tool_call_id": call.id, "content": "25 °C"}]
    asked = server(messages=messages, tools=[WEATHER], tool_choice="none", **SAYING_IT)
    second = litellm.completion(**asked)
    assert second.choices[0].message.content == TEXT
    sent = [each if isinstance(each, dict) else each.model_dump() for each in messages]
    counted = httpx.post(f"{url}/tokenize", json={"messages": sent}).json()
    assert second.usage.prompt_tokens == counted["count"]
    shown = httpx.post(f"{url}/detokenize", json={"tokens": counted["tokens"]}).json()["prompt"]
    assert shown.index("Rom 🙂") < shown.index("25 °C")


def test_structured_output(server: Server) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", "y"]}},
        "required": ["a", "b"],
        "additionalProperties": False,
    }
    asked = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    answer = litellm.completion(**server(response_format=asked))
    found = json.loads(answer.choices[0].message.content)
    assert isinstance(found["a"], int)
    assert found["b"] in ("x", "y")


def test_errors_are_its_own(server: Server) -> None:
    with pytest.raises(litellm.BadRequestError, match="top_p"):
        litellm.completion(**server(top_p=5))
    with pytest.raises(litellm.NotFoundError, match="gpt-4"):
        litellm.completion(**server(model="openai/gpt-4"))
