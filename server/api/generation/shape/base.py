"""What the answers of all endpoints have in common."""

from collections.abc import Iterable, Sequence
from typing import Protocol, TypedDict, TypeVar

from pydantic import BaseModel

from server.api.generation.generation import Progress
from server.api.generation.schema.common import Usage
from server.api.generation.schema.speculation import SpeculationReport

# JSON has no -inf, which is what an impossible token has; OpenAI writes this instead.
MIN_LOGPROB = -9999.0


class Head(TypedDict):
    """Fields that open every JSON document of one answer."""

    id: str
    created: int
    model: str
    system_fingerprint: str


ChoiceT = TypeVar("ChoiceT", bound=BaseModel)


class Shape(Protocol[ChoiceT]):
    """One endpoint's way to write one choice, and the documents around choices."""

    def first_chunk(self) -> BaseModel | None:
        """Chunk before anything else, if the endpoint has one."""
        ...

    def prompt_chunk(self, piece: Progress) -> BaseModel | None:
        """Chunk with the prompt before the first piece, if the endpoint was asked for it."""
        ...

    def chunks(self, piece: Progress, usage: Usage | None) -> Iterable[BaseModel]:
        """Chunks of one piece; none if there is nothing to show.

        Args:
            usage: Token counts so far, if each chunk shall say them.
        """
        ...

    def usage_chunk(self, usage: Usage) -> BaseModel:
        """Last chunk, with the token counts and without text."""
        ...

    def choice(self, pieces: Sequence[Progress]) -> ChoiceT:
        """The whole choice; the last piece is the one that finished it."""
        ...

    def whole(
        self, choices: list[ChoiceT], usage: Usage, speculation: SpeculationReport | None
    ) -> BaseModel:
        """The answer in one document."""
        ...


def has_content(piece: Progress) -> bool:
    """Whether it takes a chunk to say what the piece brings, besides its end."""
    brings = (piece.text, piece.logprobs, piece.sources, piece.token_ids, piece.events, piece.step)
    return any(brings)


def joined_ids(pieces: Sequence[Progress]) -> list[int] | None:
    """The pieces' token ids; None if they were not asked for."""
    if pieces[-1].token_ids is None:
        return None
    return [token_id for piece in pieces for token_id in piece.token_ids or ()]
