"""Requests with tools."""

from collections.abc import Sequence
from typing import Any

from tests.api.harness import Json, chat_body
from tests.doubles import ScriptedEngine

WEATHER: Json = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
CLOCK: Json = {"type": "function", "function": {"name": "clock"}}
ROME = '{"city": "Rom 🙂"}'


def call_text(name: str = "weather", arguments: str = ROME) -> str:
    """A call as models of the form hermes write it."""
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def says(steps: Sequence[Sequence[int]]) -> ScriptedEngine:
    """With room for the tools in the prompt, whose every byte is a token."""
    return ScriptedEngine(steps, max_model_len=10_000)


def tool_body(**fields: Any) -> Json:
    return chat_body(**{"tools": [WEATHER, CLOCK], **fields})


def function(**fields: Any) -> Json:
    return {"type": "function", "function": {"name": "f", **fields}}


def choice(name: str) -> Json:
    return {"type": "function", "function": {"name": name}}


def allowed(mode: str, *names: str) -> Json:
    tools = [choice(name) for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


def made_call(call_id: str = "call_1", name: str = "weather", arguments: object = ROME) -> Json:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
