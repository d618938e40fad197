"""What open streams cost that have nothing to send but pings.

python -m bench.idle_streams [--streams 200] [--seconds 20]   ->   a line, then one JSON line

The app of `glidecape serve` with its default settings, in this process, and a client in one of its
own that reads what comes. The engine never answers, as if every stream were waiting for its turn:
the model's own work would be all that is seen otherwise.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from typing import Any

import httpx

from bench.common.served import Server
from server.api.deps import Parts
from server.build import build_app
from server.cli.terminal import one_line_errors, report
from server.config import ServerSettings, load_settings
from server.engine.outputs import RequestOutput
from server.engine.types import FinishReason, Request, RequestId

BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}


class SilentEngine:
    """Takes every request and answers none. See `server.api.deps.Engine`."""

    is_ready = True

    def __init__(self, max_model_len: int) -> None:
        self.max_model_len = max_model_len
        self.num_open = 0

    async def generate(self, request: Request) -> AsyncGenerator[RequestOutput, None]:
        self.num_open += 1
        try:
            await asyncio.Event().wait()
            yield RequestOutput(request.request_id, (), None, None, None, 0, 0, 0)
        finally:
            self.num_open -= 1

    def finish(self, request_id: RequestId, reason: FinishReason) -> None:
        pass

    def end_requests(self) -> None:
        pass

    def check_health(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Idle:
    """One run."""

    streams: int
    seconds: float
    pings: int
    cpu_share: float
    """CPU time of the server's process, all threads, over wall time."""


async def measure(app: Any, streams: int, seconds: float) -> Idle:
    """Holds streams open for some seconds and measures the server's cost.

    Raises:
        RuntimeError: the client failed, or a stream was not open all the time.
    """
    parts: Parts = app.state.parts
    engine = SilentEngine(parts.engine.max_model_len)
    app.state.parts = replace(parts, engine=engine)
    async with Server(app) as server:
        command = (sys.executable, "-m", "bench.idle_streams", "--client", server.url)
        client = await asyncio.create_subprocess_exec(
            *(*command, "--streams", str(streams)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        if client.stdout is None:
            raise RuntimeError("the client has no output")
        await client.stdout.readline()  # all of them have their headers
        cpu, wall = time.process_time(), time.perf_counter()
        await asyncio.sleep(seconds)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        is_complete = engine.num_open == streams
        output, _ = await client.communicate(b"")  # closes its input, which ends it
    if client.returncode != 0 or not is_complete:
        raise RuntimeError("not all of the streams stayed open")
    return Idle(streams, wall, json.loads(output)["pings"], cpu / wall)


async def read(url: str, streams: int) -> None:
    """The client: opens streams, says so, and counts what comes until the server has measured."""
    limits = httpx.Limits(max_connections=streams)
    pings = 0
    opened = asyncio.Semaphore(0)

    async def stream(client: httpx.AsyncClient) -> None:
        nonlocal pings
        async with client.stream("POST", "/v1/chat/completions", json=BODY) as response:
            response.raise_for_status()
            opened.release()
            async for line in response.aiter_lines():
                pings += line.startswith(": ping")

    async with httpx.AsyncClient(base_url=url, timeout=None, limits=limits) as client:
        tasks = [asyncio.create_task(stream(client)) for _ in range(streams)]
        for _ in tasks:
            await opened.acquire()
        print("open", flush=True)
        await asyncio.to_thread(sys.stdin.read)  # until the server's side closes it
        print(json.dumps({"pings": pings}), flush=True)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--client", metavar="URL", help="used by the bench itself")
    options = parser.parse_args()
    if options.client is not None:
        asyncio.run(read(options.client, options.streams))
        return
    app, _ = build_app(load_settings(ServerSettings), report)
    idle = asyncio.run(measure(app, options.streams, options.seconds))
    print(
        f"{idle.streams} idle streams, {idle.pings} pings in {idle.seconds:.0f} s:"
        f" {100 * idle.cpu_share:.2f} % of a core"
    )
    figures = {"streams": idle.streams, "pings": idle.pings, "cpu_share": idle.cpu_share}
    print(json.dumps(figures))


if __name__ == "__main__":
    with one_line_errors("bench.idle_streams"):
        main()
