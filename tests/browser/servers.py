"""Live servers for the browser: in a thread, because the tests' own thread drives the browser."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace

from fastapi import FastAPI
from starlette.responses import JSONResponse, StreamingResponse

from server.api.middleware.api_keys import ApiKeys
from server.api.middleware.stack import MiddlewareConfig
from server.api.service import playground
from server.engine.async_engine import AsyncEngine
from server.engine.types import SpeculationParams
from tests.api.harness import MIDDLEWARE, live_app, make_app
from tests.api.tiny_server import LIMITS, SPEAKING, byte_model
from tests.doubles import ScriptedEngine
from tests.engine.drafting import ngram
from tests.engine.tiny import TinyEngine

KEY = "let-me-in"
LOCKED = MiddlewareConfig(
    ApiKeys([KEY]),
    MIDDLEWARE.cors_origins,
    MIDDLEWARE.max_body_size,
    MIDDLEWARE.limits,
    MIDDLEWARE.drops_unknown_fields,
)


@contextmanager
def in_thread(serve: Callable[[], AbstractAsyncContextManager[str]]) -> Generator[str]:
    """A server in a thread with a loop of its own → its URL."""
    urls: list[str] = []
    is_up, loops, over = threading.Event(), list[asyncio.AbstractEventLoop](), asyncio.Event()

    async def run() -> None:
        async with serve() as url:
            loops.append(asyncio.get_running_loop())
            urls.append(url)
            is_up.set()
            await over.wait()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    if not is_up.wait(60):
        raise RuntimeError("the server did not start")
    try:
        yield urls[0]
    finally:
        loops[0].call_soon_threadsafe(over.set)
        thread.join()


@asynccontextmanager
async def real_engine(middleware: MiddlewareConfig = MIDDLEWARE) -> AsyncGenerator[str]:
    """A tiny random model that speaks bytes, speculating by prompt lookup."""
    parts = TinyEngine(LIMITS, ngram, byte_model())
    apps: list[FastAPI] = []
    engine = AsyncEngine(
        parts.scheduler, parts.runner, lambda step: apps[0].state.parts.metrics.record(step)
    )
    info = replace(SPEAKING, default_speculation=SpeculationParams("auto"))
    apps.append(make_app(engine, info=info, middleware=middleware))
    engine.start()
    try:
        async with live_app(apps[0]) as url:
            yield url
    finally:
        await engine.stop()


@asynccontextmanager
async def scripted(
    engine: ScriptedEngine, middleware: MiddlewareConfig = MIDDLEWARE
) -> AsyncGenerator[str]:
    async with live_app(make_app(engine, info=SPEAKING, middleware=middleware)) as url:
        yield url


@dataclass(frozen=True, slots=True)
class Pieces:
    """A stream's bytes as the network delivers them."""

    pieces: Sequence[bytes]
    seconds_between: float = 0.002

    @asynccontextmanager
    async def __call__(self) -> AsyncGenerator[str]:
        """A server that answers every chat with them."""
        app = FastAPI()
        app.include_router(playground.router)

        @app.get("/v1/models")
        async def models() -> JSONResponse:  # pyright: ignore[reportUnusedFunction]
            return JSONResponse({"data": [{"id": "scripted"}]})

        @app.post("/v1/chat/completions")
        async def chat() -> StreamingResponse:  # pyright: ignore[reportUnusedFunction]
            return StreamingResponse(self._send(), media_type="text/event-stream")

        async with live_app(app) as url:
            yield url

    async def _send(self) -> AsyncGenerator[bytes]:
        for piece in self.pieces:
            yield piece
            await asyncio.sleep(self.seconds_between)
