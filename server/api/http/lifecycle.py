"""The states of the server from start to end, and what they mean for each request.

    serving ── drain ──> draining ── cut ──> over

While it drains, open requests go on and new ones are refused; `/ready` says 503. When it is over,
those that are still open are ended with an error: streams by an event, others by a 503.
"""

import asyncio
from typing import Literal

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.deps import Engine
from server.errors import EngineDeadError, ShuttingDownError

State = Literal["serving", "draining", "over"]


class OpenRequest:
    """An HTTP request that is being answered."""

    __slots__ = ("has_begun", "task")

    def __init__(self, task: asyncio.Task[object]) -> None:
        self.task = task
        self.has_begun = False
        """Its answer's status was sent."""


class Lifecycle:
    """The state of one server, and its open requests. For one event loop.

    Args:
        engine: Ends its requests when the server is over.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._open: set[OpenRequest] = set()
        self.state: State = "serving"

    @property
    def num_open(self) -> int:
        """HTTP requests that are being answered."""
        return len(self._open)

    def check_engine(self) -> None:
        """Raises EngineDeadError if it has stopped."""
        self._engine.check_health()

    @property
    def is_engine_dead(self) -> bool:
        try:
            self.check_engine()
        except EngineDeadError:
            return True
        return False

    def drain(self) -> None:
        """No new requests any more."""
        self.state = "draining"

    def cut(self) -> None:
        """Ends what is open. Their answers are on their way when it returns, not yet sent."""
        self.state = "over"
        self._engine.end_requests()
        for request in self._open:
            if not request.has_begun:
                # Wherever it waits: for its body, a place, a grammar.
                request.task.cancel()

    def enter(self) -> OpenRequest:
        """The current task's request; to be given to `leave`."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a request is answered outside of a task")
        request = OpenRequest(task)
        self._open.add(request)
        return request

    def leave(self, request: OpenRequest) -> None:
        self._open.discard(request)


class LifecycleMiddleware:
    """Counts a request as open until its answer is sent.

    Raises:
        ShuttingDownError: it came too late, or had not begun to be answered when the server ended.
        EngineDeadError: the same, where the server ended because its engine died.
    """

    def __init__(self, app: ASGIApp, lifecycle: Lifecycle) -> None:
        self._app = app
        self._lifecycle = lifecycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Requests that only read are still answered: the server's state, and stored responses.
        if scope["method"] == "POST" and self._lifecycle.state != "serving":
            raise ShuttingDownError
        request = self._lifecycle.enter()

        async def send_noting(message: Message) -> None:
            request.has_begun = True
            await send(message)

        try:
            await self._app(scope, receive, send_noting)
        except asyncio.CancelledError:
            if self._lifecycle.state != "over" or request.has_begun:
                raise
            request.task.uncancel()
            # Where the server ends because its engine died, that is the error.
            self._lifecycle.check_engine()
            raise ShuttingDownError from None
        finally:
            self._lifecycle.leave(request)
