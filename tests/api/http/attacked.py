"""A server in a process of its own that says how long its event loop was kept from other work.

python -m tests.api.http.attacked   ->   its port

`GET /stall` answers the most CPU seconds that the process spent between two turns of its event
loop, and begins anew. CPU time, and not the clock's: what other processes take is not its fault.
"""

import asyncio
import sys
import time
from collections.abc import AsyncGenerator
from dataclasses import replace

import uvicorn
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from server.api.http.connection import http_options
from server.engine.outputs import RequestOutput
from server.engine.types import Request
from tests.api.harness import CONNECTION_LIMITS, make_app
from tests.doubles import ScriptedEngine, ids

TICK_SECONDS = 0.01

LIMITS = replace(CONNECTION_LIMITS, max_connections=200)


class TickingEngine(ScriptedEngine):
    """A token of every request at each tick, until the client leaves."""

    async def generate(self, request: Request) -> AsyncGenerator[RequestOutput, None]:
        while True:
            async for output in super().generate(request):
                yield replace(output, finish_reason=None)
                await asyncio.sleep(TICK_SECONDS)


class StallWatch:
    """Around the app."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._worst = 0.0
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._watch())
        if scope.get("path") == "/stall":
            answer = JSONResponse(self._worst)
            self._worst = 0.0
            await answer(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _watch(self) -> None:
        before = time.process_time()
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = time.process_time()
            self._worst = max(self._worst, now - before)
            before = now


async def main() -> None:
    app = StallWatch(make_app(TickingEngine([ids("a")], max_model_len=8192)))
    options = http_options(LIMITS)
    config = uvicorn.Config(app, port=0, log_level="critical", lifespan="off", **options)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    sys.stdout.write(f"{server.servers[0].sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await serving


if __name__ == "__main__":
    asyncio.run(main())
