"""The parts an app is made of, and how a route gets at them."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Protocol

from fastapi import Depends, Request

from server.api.http.long_work import LongWork
from server.api.responses.store import ResponseStore
from server.engine.outputs import RequestOutput
from server.engine.types import (
    FinishReason,
    Grammar,
    RequestId,
    SamplingDefaults,
    SpeculationParams,
)
from server.engine.types import Request as EngineRequest
from server.observe.front_metrics import FrontMetrics
from server.text.chat_template import ChatTemplate
from server.text.infill import Infill
from server.text.tokenizer import Tokenizer


class Engine(Protocol):
    """What the API needs of `server.engine.async_engine.AsyncEngine`."""

    @property
    def max_model_len(self) -> int: ...

    @property
    def is_ready(self) -> bool: ...

    def generate(self, request: EngineRequest) -> AsyncGenerator[RequestOutput, None]:
        """Yields what each step adds. Closing it ends the request and frees its blocks.

        Raises:
            EngineDeadError: a step crashed.
            ShuttingDownError: the server ends.
        """
        ...

    def finish(self, request_id: RequestId, reason: FinishReason) -> None:
        """Sets the reason of a request that the caller is about to close."""
        ...

    def end_requests(self) -> None:
        """Ends every open request, and each later one, by a ShuttingDownError."""
        ...

    def check_health(self) -> None:
        """Raises EngineDeadError if no request can be served any more."""
        ...


@dataclass(frozen=True, slots=True)
class ServingInfo:
    """What answers say about this server."""

    model_name: str
    created: int
    """When the server started, in Unix seconds."""
    version: str
    vocab_size: int
    """The model knows the token ids below this. A tokenizer sometimes knows more; such an id must
    never reach the engine."""
    system_fingerprint: str
    """Stays the same as long as model and settings do: `fp_…`."""
    other_names: tuple[str, ...] = ()
    """More names that requests can use, and that are listed."""
    unlisted_names: frozenset[str] = frozenset()
    """Names that requests can use too, without being listed."""
    default_sampling: SamplingDefaults = field(default_factory=SamplingDefaults)
    """Values for requests that don't set them."""
    sse_ping_seconds: float = 15.0
    drops_other_tools: bool = False
    """Tools that are no functions are left out of requests; else refused."""
    salts_by_key: bool = True
    """Requests of different API keys share nothing that the engine keeps: neither blocks of the
    prefix cache nor answers that proposals are looked up in."""
    cache_block: int = 0
    """Tokens of a block, of which the prefix cache keeps full ones; 0 where there is no such
    cache."""
    can_speculate: bool = False
    """Whether there is a draft."""
    default_speculation: SpeculationParams = field(default_factory=SpeculationParams)
    """Values for requests that don't set them; off where there is no draft."""

    @property
    def names(self) -> tuple[str, ...]:
        """The listed names; answers have the first."""
        return (self.model_name, *self.other_names)

    def answers_to(self, name: str) -> bool:
        """Whether requests can name the model so."""
        return name in self.names or name in self.unlisted_names


class Grammars(Protocol):
    """What the API needs of `server.engine.grammar.compile.service.GrammarCompiler`."""

    async def compile(self, grammar: Grammar, owner: Hashable = None) -> object:
        """Makes it ready for the engine.

        Args:
            owner: whose share of the compiling is used.

        Raises:
            GrammarError: it can't be enforced, or takes too much.
            RateLimitError: others' grammars take too long.
        """
        ...

    def find(self, grammar: Grammar) -> object | None:
        """The compiled grammar; None if it is not ready yet."""
        ...

    async def check_schemas(self, schemas: Sequence[object], owner: Hashable = None) -> None:
        """Refuses JSON schemas that can't be enforced.

        Raises:
            GrammarError: a part of a JSON schema can't be enforced; the path begins with the
                schema's number.
            RateLimitError: others' grammars take too long.
        """
        ...


@dataclass(frozen=True, slots=True)
class Parts:
    engine: Engine
    tokenizer: Tokenizer
    chat_template: ChatTemplate
    metrics: FrontMetrics
    info: ServingInfo
    grammars: Grammars
    infill: Infill | None = None
    """How the model fills in; None if it can't."""
    response_store: ResponseStore = field(default_factory=ResponseStore)
    long_work: LongWork = field(default_factory=LongWork)
    all_metrics: Callable[[], Awaitable[bytes]] | None = None
    """The metrics of all processes that serve, in Prometheus's text format; None where there is but
    this one."""


# Async although it never waits: FastAPI runs a plain function in a thread, which costs more than
# the whole lookup.
async def get_parts(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts


PartsDep = Annotated[Parts, Depends(get_parts)]
