"""What benchmarks that ask a loaded engine have in common."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import get_args

from server.cli.terminal import report
from server.config import ModelSettings
from server.engine.types import PolicyName
from server.loading.model import LoadedModel, build_model
from server.text.chat_template import Message

POLICIES: tuple[PolicyName, ...] = get_args(PolicyName)


def load(settings: ModelSettings) -> LoadedModel:
    """Loads a model, without looking at its steps' stats."""
    return build_model(settings, report, lambda stats: None)


@asynccontextmanager
async def running(model: LoadedModel) -> AsyncGenerator[None]:
    """Starts the engine, and stops it in the end."""
    model.engine.start()
    try:
        yield
    finally:
        await model.engine.stop()


def encode_chat(model: LoadedModel, messages: Sequence[Message]) -> tuple[int, ...]:
    """The prompt of a chat, by the model's template."""
    text = model.chat_template.render(messages)
    return tuple(model.tokenizer.encode(text, add_special_tokens=False))


def encode_question(model: LoadedModel, question: str) -> tuple[int, ...]:
    """The prompt of a chat that is one question."""
    return encode_chat(model, [{"role": "user", "content": question}])
