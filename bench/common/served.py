"""The same load through HTTP: what the API costs beside the model."""

import asyncio
import json
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import uvicorn
from fastapi import FastAPI

from server.api.http.connection import http_options
from server.api.http.descriptors import open_files_limit
from server.api.http.limits import connection_limits
from server.cli.serve import bind
from server.config import ServerSettings


@dataclass(frozen=True, slots=True)
class Served:
    """One run of several streams over HTTP."""

    tokens_per_second: float
    api_share: float
    """CPU time of the API's thread over wall time: its part of every step."""


class Server:
    """The app on a free port of this machine, in the current event loop.

    Args:
        http: uvicorn's options for HTTP; left out, those of `glidecape serve`.
        starts_app: whether the app's engine starts and stops with this server, and not with
            another one.
    """

    def __init__(
        self, app: FastAPI, http: Mapping[str, Any] | None = None, *, starts_app: bool = True
    ) -> None:
        self._listener = bind("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        options: dict[str, Any] = {
            **(http or http_options(connection_limits(ServerSettings(), open_files_limit()))),
            "log_level": "warning",
            "access_log": False,
            "lifespan": "on" if starts_app else "off",
        }
        self._server = uvicorn.Server(uvicorn.Config(app, **options))

    async def __aenter__(self) -> "Server":
        self._task = asyncio.create_task(self._server.serve(sockets=[self._listener]))
        while not self._server.started:
            await asyncio.sleep(0.01)
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.should_exit = True
        await self._task

    async def measure(self, streams: int, new_tokens: int) -> Served:
        """Streams chats from a client process of its own."""
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("the API's thread time is taken from the calling thread")
        arguments = ("-m", "bench.common.client", self.url, str(streams), str(new_tokens))
        cpu, wall = time.thread_time(), time.perf_counter()
        client = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await client.communicate()
        if client.returncode != 0:
            raise RuntimeError(f"the load client failed with exit code {client.returncode}")
        result = json.loads(output)
        # The client's own start is idle time here; its clock says how long the streams took.
        cpu, wall = time.thread_time() - cpu, min(time.perf_counter() - wall, result["seconds"])
        return Served(result["tokens"] / result["seconds"], cpu / wall)
