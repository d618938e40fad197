"""How answers are written: what the shapes of all endpoints have in common."""

from collections.abc import Iterable, Sequence
from typing import Protocol, TypedDict, TypeVar

from pydantic import BaseModel

from server.api.generation.job import Piece
from server.api.generation.schema.common import TokenLogprob, TopLogprob, Usage
from server.api.generation.schema.speculation import SpeculationReport
from server.engine.outputs import TokenLogprobs
from server.text.tokenizer import Tokenizer

# JSON has no -inf, which is what an impossible token has; OpenAI writes this instead.
MIN_LOGPROB = -9999.0


class Envelope(TypedDict):
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

    def prompt_chunk(self, piece: Piece) -> BaseModel | None:
        """Chunk with the prompt before the first piece, if the endpoint was asked for it."""
        ...

    def chunks(self, piece: Piece, usage: Usage | None) -> Iterable[BaseModel]:
        """Chunks of one piece; none if there is nothing to show.

        Args:
            usage: Token counts so far, where each chunk reports them.
        """
        ...

    def usage_chunk(self, usage: Usage) -> BaseModel:
        """Last chunk, with the token counts and without text."""
        ...

    def choice(self, pieces: Sequence[Piece]) -> ChoiceT:
        """The whole choice; the last piece is the one that finished it."""
        ...

    def whole(
        self, choices: list[ChoiceT], usage: Usage, speculation: SpeculationReport | None
    ) -> BaseModel:
        """The answer in one document."""
        ...


def has_content(piece: Piece) -> bool:
    """Whether it takes a chunk to say what the piece brings, besides its end."""
    brings = (piece.text, piece.logprobs, piece.sources, piece.token_ids, piece.events, piece.step)
    return any(brings)


def joined_ids(pieces: Sequence[Piece]) -> list[int] | None:
    """The pieces' token ids; None if they were not asked for."""
    if pieces[-1].token_ids is None:
        return None
    return [token_id for piece in pieces for token_id in piece.token_ids or ()]


def token_logprob(tokenizer: Tokenizer, chosen: TokenLogprobs) -> TokenLogprob:
    """A token's logprobs as chats and responses write them."""
    alternatives = [_top(tokenizer, token_id, logprob) for token_id, logprob in chosen.top]
    own = _top(tokenizer, chosen.token_id, chosen.logprob)
    return TokenLogprob(
        token=own.token, logprob=own.logprob, bytes=own.bytes, top_logprobs=alternatives
    )


def _top(tokenizer: Tokenizer, token_id: int, logprob: float) -> TopLogprob:
    return TopLogprob(
        token=tokenizer.token_string(token_id),
        logprob=max(logprob, MIN_LOGPROB),
        bytes=list(tokenizer.token_bytes(token_id)),
    )
