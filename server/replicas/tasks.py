"""Tasks in a front's event loop, and calls that get there from Ray's threads."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import Context
from typing import Any


class Tasks:
    """Those of one front."""

    def __init__(self) -> None:
        self._tasks = set[asyncio.Task[None]]()
        self._event_loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """To be called in the event loop."""
        self._event_loop = asyncio.get_running_loop()

    @property
    def is_started(self) -> bool:
        return self._event_loop is not None

    def soon(self, call: Callable[..., object], *arguments: object) -> None:
        """Makes a call in the event loop, from another thread."""
        if self._event_loop is not None:
            with suppress(RuntimeError):  # closed already, at the end
                self._event_loop.call_soon_threadsafe(call, *arguments)

    def keep(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Starts a task, and keeps it from being collected.

        In a context of its own: where the API is itself a deployment, Serve would take all calls of
        one HTTP request for the same, and mix their replicas up.
        """
        task = asyncio.create_task(work, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def is_cancelled_itself() -> bool:
    """Whether a CancelledError is this task's own: Ray raises it for calls that it gives up."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
