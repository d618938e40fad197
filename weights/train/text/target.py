"""What writing training text needs of the target: an engine, its tokenizer, its chat template."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from server.engine.outputs import RequestOutput
from server.engine.types import Request
from server.text.chat_template import ChatTemplate
from server.text.tokenizer import Tokenizer


class Generates(Protocol):
    """The engine's front (`server/engine/async_engine.py`), started."""

    max_model_len: int

    def generate(self, request: Request) -> AsyncGenerator[RequestOutput, None]: ...


@dataclass(frozen=True, slots=True)
class TextTarget:
    """The model that writes."""

    engine: Generates
    tokenizer: Tokenizer
    template: ChatTemplate | None
    """None for a model that is no chat model."""
