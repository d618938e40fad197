"""The engine as the API sees it, where several replicas serve: each request goes to one of them."""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass, field, replace
from typing import Any

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from server.engine.async_engine import check_request
from server.engine.outputs import FinishedRequest, RequestOutput
from server.engine.types import FinishReason, Request, RequestId
from server.errors import (
    EngineDeadError,
    GlidecapeError,
    InvalidRequestError,
    ShuttingDownError,
)
from server.replicas.calls import AddressedCall, Batch, Finish, RunCall
from server.replicas.routing.directory import Directory

_ATTEMPTS = 3
"""Replicas that a request is sent to, one after another, as long as none has sent a token."""
_LOOK_SECONDS = 1.0
_LAST_OUTPUTS_SECONDS = 10.0
"""How long a request's outputs may take to arrive when its replica says that it is over."""

logger = logging.getLogger(__name__)


class ReplicaLostError(GlidecapeError):
    """The replica that had a request can't finish it."""


@dataclass(eq=False, slots=True)
class _Open:
    """A request that a replica has, or is about to get."""

    call: RunCall
    stream: asyncio.Queue[RequestOutput | GlidecapeError] = field(
        default_factory=lambda: asyncio.Queue[RequestOutput | GlidecapeError]()
    )
    began: float = field(default_factory=time.monotonic)
    replica: str | None = None
    running: asyncio.Task[None] | None = None
    """Waits for its call to be over."""
    is_finishing: bool = False
    """Its replica was told to end it."""
    is_over: bool = False
    """Its last output has come."""

    @property
    def request(self) -> Request:
        return self.call.request


class ReplicatedEngine:
    """What the API needs of an engine, over the calls of Ray Serve.

    Args:
        deployment: Serve's handle of `EngineReplica`.
        directory: The replicas that there are.
        max_model_len: Theirs.
        block_size: Of their prefix caches; 0 where they have none.
        replacement_seconds: How long there may be no replica at all until this counts as dead.
        tell_ended: Gets what ended, for log and traces.
    """

    is_running = True
    """Ray's threads go on to the end, and end the process with an error of their own where Python
    takes itself down under them."""

    def __init__(
        self,
        deployment: DeploymentHandle[Any],
        directory: Directory,
        max_model_len: int,
        block_size: int,
        replacement_seconds: float,
        tell_ended: Callable[[tuple[FinishedRequest, ...]], None],
    ) -> None:
        self.max_model_len = max_model_len
        self._front = uuid.uuid4().hex
        self._directory = directory
        self._block_size = block_size
        self._replacement_seconds = replacement_seconds
        self._tell_ended = tell_ended
        self._run: Any = deployment.run
        self._outputs: Any = deployment.options(stream=True).outputs
        self._finish: Any = deployment.finish
        self._metrics_text: Any = deployment.metrics_text
        self._open: dict[RequestId, _Open] = {}
        self._ending: dict[RequestId, tuple[Request, str]] = {}
        """Requests of which an engine has still to say how they ended, and its replica."""
        self._listening: dict[str, asyncio.Task[None]] = {}
        self._tasks = set[asyncio.Task[None]]()
        self._event_loop: asyncio.AbstractEventLoop | None = None
        self._is_closed = False

    def start(self) -> None:
        """To be called in the event loop that will call `generate`."""
        self._event_loop = asyncio.get_running_loop()
        self._keep(self._watch_health())

    @property
    def is_ready(self) -> bool:
        return self._event_loop is not None and bool(self._directory.names)

    @property
    def replicas(self) -> tuple[str, ...]:
        """Names of the replicas that requests can be sent to."""
        return self._directory.names

    @property
    def busy_replicas(self) -> frozenset[str]:
        """Names of the replicas at which requests are open."""
        return frozenset(each.replica for each in self._open.values() if each.replica)

    def check_health(self) -> None:
        """Raises EngineDeadError if there has been no replica for so long that none will come."""
        seconds = self._directory.empty_seconds
        if seconds > self._replacement_seconds:
            raise EngineDeadError(f"there has been no replica for {seconds:.0f} seconds")

    async def _watch_health(self) -> None:
        """Has requests that wait for a replica end when none will come."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                self.check_health()
            except EngineDeadError as error:
                for opened in self._open.values():
                    opened.stream.put_nowait(EngineDeadError(str(error)))

    def end_requests(self) -> None:
        """Ends every open request, and each later one, with a ShuttingDownError."""
        self._is_closed = True
        for request in self._open.values():
            request.stream.put_nowait(ShuttingDownError())

    def finish(self, request_id: RequestId, reason: FinishReason) -> None:
        """Ends a request from outside; it yields no more output."""
        found = self._open.get(request_id)
        if found is not None and found.replica is not None:
            found.is_finishing = True
            self._keep(self._tell_finish(found.replica, Finish(request_id, reason)))

    async def _tell_finish(self, replica: str, what: Finish) -> None:
        call = AddressedCall(replica, self._front)
        with suppress(RayError, RayServeException, TimeoutError):
            async with asyncio.timeout(_LAST_OUTPUTS_SECONDS):
                await self._finish.remote(call, what)

    async def generate(self, request: Request) -> AsyncGenerator[RequestOutput, None]:
        """Yields the request's outputs. Leaving the iteration early aborts the request.

        A replica that is lost before the request's first output is replaced by another one.

        Raises:
            EngineDeadError: the request's replica is gone, and it can't be sent to another.
            ShuttingDownError: the server ends.
            InvalidRequestError: as `AsyncEngine.generate`; and GrammarError, GrammarCostError.
        """
        check_request(request, self.max_model_len)
        if request.request_id in self._open:
            raise InvalidRequestError(f"request id {request.request_id!r} is taken")
        avoid = frozenset[str]()
        for attempt in range(1, _ATTEMPTS + 1):
            self.check_health()
            if self._is_closed:
                raise ShuttingDownError
            opened = self._begin(request, avoid)
            has_output = False
            try:
                while not opened.is_over:
                    output = await opened.stream.get()
                    if isinstance(output, GlidecapeError):
                        raise output
                    opened.is_over = output.finish_reason is not None
                    opened.call.token_ids.extend(output.token_ids)
                    has_output = True
                    yield output
                return
            except (ReplicaLostError, EngineDeadError) as error:
                if has_output or attempt == _ATTEMPTS:
                    self._tell_ended((_given_up(opened),))
                    raise EngineDeadError(f"the request's replica is gone: {error}") from error
                logger.warning("%s is sent to another replica: %s", request.request_id, error)
                avoid |= {opened.replica} if opened.replica else frozenset()
            finally:
                del self._open[request.request_id]
                if not opened.is_over and not opened.is_finishing:
                    self._cancel(opened)

    # Calls.

    def _begin(self, request: Request, avoid: frozenset[str]) -> _Open:
        """Sends a request to the replica that the router chooses."""
        call = RunCall(
            self._front, request, avoid, self._block_size, list(request.prompt_token_ids)
        )
        opened = self._open[request.request_id] = _Open(call)
        call.on_routed = lambda replica: self._soon(self._routed, opened, replica)
        opened.running = self._keep(self._watch(opened))
        return opened

    async def _watch(self, opened: _Open) -> None:
        """Makes the call of a request, and says in its stream how it failed."""
        lost: str | None = None
        response = self._run.remote(opened.call)
        try:
            await response
            if not opened.is_over and not opened.is_finishing:
                await asyncio.sleep(_LAST_OUTPUTS_SECONDS)
                lost = "its outputs did not arrive"
        except asyncio.CancelledError:
            response.cancel()
            raise
        except (RayError, RayServeException) as error:
            lost = type(error).__name__
        if lost is not None:
            opened.stream.put_nowait(ReplicaLostError(lost))

    def _cancel(self, opened: _Open) -> None:
        """Ends a request's call, and with it the request in its replica."""
        if opened.running is not None:
            opened.running.cancel()

    def _routed(self, opened: _Open, replica: str) -> None:
        """A replica has taken a request."""
        opened.replica = replica
        self._ending[opened.request.request_id] = (opened.request, replica)
        if replica not in self._listening:
            self._listening[replica] = self._keep(self._listen(replica))

    async def _listen(self, replica: str) -> None:
        """Delivers a replica's outputs for as long as requests are open there."""
        error: ReplicaLostError | None = None
        try:
            while error is None and any(each.replica == replica for each in self._open.values()):
                error = await self._listen_once(replica)
        finally:
            del self._listening[replica]
            self._lose(replica, error or ReplicaLostError("its outputs ended"))

    async def _listen_once(self, replica: str) -> ReplicaLostError | None:
        """Until the replica ends the stream, since it has no request of ours; or why it broke."""
        unknown = asyncio.Event()
        call = AddressedCall(replica, self._front, lambda: self._soon(unknown.set))
        response = self._outputs.remote(call)
        leaving = self._keep(_cancel_when(unknown, response))
        try:
            async for batch in response:
                self._deliver(batch)
        except asyncio.CancelledError:
            if not unknown.is_set():
                response.cancel()
                raise
            return ReplicaLostError("no requests can be sent to it any more")
        except (RayError, RayServeException) as error:
            return ReplicaLostError(type(error).__name__)
        finally:
            leaving.cancel()
        return None

    def _deliver(self, batch: Batch) -> None:
        for output in batch.outputs:
            found = self._open.get(output.request_id)
            if found is not None:  # gone: the client left while the step ran
                found.stream.put_nowait(output)
        for request_id, error in batch.errors:
            found = self._open.get(request_id)
            if found is not None:
                found.stream.put_nowait(error.unpacked())
        if batch.ended:
            self._tell_ended(tuple(map(self._with_prompt, batch.ended)))

    def _with_prompt(self, ended: FinishedRequest) -> FinishedRequest:
        found = self._ending.pop(ended.request.request_id, None)
        return ended if found is None else replace(ended, request=found[0])

    def _lose(self, replica: str, error: ReplicaLostError) -> None:
        """Ends the requests of a replica whose outputs come no more."""
        for opened in self._open.values():
            if opened.replica == replica:
                opened.stream.put_nowait(error)
        gone = [key for key, (_, name) in self._ending.items() if name == replica]
        for request_id in gone:
            del self._ending[request_id]

    # Metrics.

    async def metrics_texts(self, seconds: float) -> dict[str, str | None]:
        """The metrics of each replica, in Prometheus's text format; None for one that does not
        answer in time."""
        names = self.replicas
        found: dict[str, str | None] = dict.fromkeys(names)
        await asyncio.gather(*(self._keep(self._ask_metrics(n, seconds, found)) for n in names))
        return found

    async def _ask_metrics(
        self, replica: str, seconds: float, found: dict[str, str | None]
    ) -> None:
        with suppress(RayError, RayServeException, TimeoutError):
            async with asyncio.timeout(seconds):
                call = AddressedCall(replica, self._front)
                found[replica] = await self._metrics_text.remote(call)

    # Tasks.

    def _soon(self, call: Callable[..., object], *arguments: object) -> None:
        """Makes a call in the event loop, from the router's thread."""
        if self._event_loop is not None:
            with suppress(RuntimeError):  # closed already, at the end
                self._event_loop.call_soon_threadsafe(call, *arguments)

    def _keep(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Starts a task, and keeps it from being collected.

        In a context of its own: where the API is itself a deployment, Serve would take all calls of
        one HTTP request for the same, and mix their replicas up.
        """
        task = asyncio.create_task(work, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _given_up(opened: _Open) -> FinishedRequest:
    """What is known of a request whose engine can't say how it ended."""
    num_prompt_tokens = len(opened.request.prompt_token_ids)
    return FinishedRequest(
        request=opened.request,
        reason="error",
        num_prompt_tokens=num_prompt_tokens,
        num_output_tokens=len(opened.call.token_ids) - num_prompt_tokens,
        queue_seconds=0.0,
        prefill_seconds=0.0,
        decode_seconds=0.0,
        e2e_seconds=time.monotonic() - opened.began,
    )


async def _cancel_when(event: asyncio.Event, response: Any) -> None:
    await event.wait()
    response.cancel()
