"""A real server with faults to order, and how it ended."""

import asyncio
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from tests.api.http.faulty_server import COMMAND
from tests.live import LiveServer, serve

SECONDS = 60.0
"""Longest wait, on a busy machine."""


@contextmanager
def faulty(*arguments: str) -> Generator[LiveServer]:
    with serve(*arguments, command=COMMAND) as server:
        yield server


def exit_code(server: LiveServer) -> int:
    """Waits for the server's end, which may leave no traceback, whatever it was."""
    return server.process.wait(timeout=SECONDS)


async def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.02)
