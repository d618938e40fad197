"""Apps around a scripted engine that thinks."""

from dataclasses import replace
from typing import Any

import httpx
from fastapi import FastAPI

from server.text.thinking.formats import FORMATS, ThinkingFormatName
from tests.api.harness import CHAT, INFO, chat_body, in_process, make_app
from tests.doubles import ScriptedEngine
from tests.thinking import QWEN3, VOCAB_SIZE, steps_of, thinking_template, thinking_tokenizer

THINKER = replace(INFO, vocab_size=VOCAB_SIZE)


def thinking_app(
    engine: ScriptedEngine,
    template: str = QWEN3,
    form: ThinkingFormatName | None = None,
    *,
    thinks: bool = True,
) -> FastAPI:
    """An app whose model has a chat template.

    Args:
        form: that the server is set to; None for what the template says.
        thinks: False for a server that tells nothing apart.
    """
    chat_template = thinking_template(template)
    if form is not None or not thinks:
        chat_template.thinking_format = None if form is None else FORMATS[form]
    return make_app(engine, thinking_tokenizer(), chat_template=chat_template, info=THINKER)


async def answer(
    text: str, template: str = QWEN3, *, step_size: int = 1, **fields: Any
) -> httpx.Response:
    """The answer to a chat, where the engine says this text in steps of so many tokens."""
    return await ask(ScriptedEngine(steps_of(text, step_size)), template, **fields)


async def ask(engine: ScriptedEngine, template: str = QWEN3, **fields: Any) -> httpx.Response:
    async with in_process(thinking_app(engine, template)) as client:
        return await client.post(CHAT, json=chat_body(**fields))


def prompt_of(engine: ScriptedEngine) -> str:
    """The prompt of the last request, special tokens included."""
    raw = thinking_tokenizer().token_bytes
    return b"".join(map(raw, engine.requests[-1].prompt_token_ids)).decode()
