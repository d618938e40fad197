"""What the answers of all endpoints have in common."""

from collections.abc import Iterable
from typing import Protocol, TypedDict

from pydantic import BaseModel

from server.api.generation import Progress
from server.api.schemas.common import Usage

# JSON has no -inf, which is what an impossible token has; OpenAI writes this instead.
MIN_LOGPROB = -9999.0


class Head(TypedDict):
    """Fields that open every JSON document of one answer."""

    id: str
    created: int
    model: str
    system_fingerprint: str


class Shape(Protocol):
    """One endpoint's way to write an answer."""

    def first_chunk(self) -> BaseModel | None:
        """Chunk before any text, if the endpoint has one."""
        ...

    def chunks(self, piece: Progress) -> Iterable[BaseModel]:
        """Chunks of one piece; none if there is nothing to show."""
        ...

    def usage_chunk(self, usage: Usage) -> BaseModel:
        """Last chunk, with the token counts and without text."""
        ...

    def whole(self, pieces: list[Progress], usage: Usage) -> BaseModel:
        """The answer in one document; the last piece is the one that finished it."""
        ...
