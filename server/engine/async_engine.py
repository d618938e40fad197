"""The engine's asyncio front: `generate` per request, everything else in the engine's thread."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import TypeVar

from server.engine.grammar.compile.compiler import CompiledGrammar
from server.engine.grammar.compile.service import GrammarCompiler
from server.engine.loop import EngineLoop, Executes, Failure, Finish
from server.engine.outputs import RequestOutput, StepStats
from server.engine.schedule.blocks import BlockHash
from server.engine.schedule.scheduler import Scheduler
from server.engine.types import FinishReason, Request, RequestId
from server.engine.watchdog import Watchdog
from server.errors import (
    ContextLengthError,
    EngineDeadError,
    GlidecapeError,
    GrammarCostError,
    GrammarError,
    InvalidRequestError,
    ShuttingDownError,
)

T = TypeVar("T")


class AsyncEngine:
    """Serves many requests from one event loop.

    Args:
        observe: called with the figures of each step, in the engine's thread.
        grammars: compiles those of requests; None where none has any.
        step_timeout: seconds after which a step that has not ended counts as a crash; None waits
            for ever.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        runner: Executes,
        observe: Callable[[StepStats], None],
        grammars: GrammarCompiler | None = None,
        step_timeout: float | None = None,
    ) -> None:
        self.max_model_len = scheduler.config.max_model_len
        self._pool = scheduler.pool
        self._streams: dict[RequestId, asyncio.Queue[RequestOutput | GlidecapeError]] = {}
        self._event_loop: asyncio.AbstractEventLoop | None = None
        self._death: str | None = None
        """Why the engine died; each request gets an exception of its own."""
        self._grammars = grammars
        self._is_closed = False
        """Whether `end_requests` was called."""
        self._loop = EngineLoop(scheduler, runner, self._publish, self._died, observe)
        self._watchdog = Watchdog(self._loop, step_timeout, self.fail) if step_timeout else None

    @property
    def is_ready(self) -> bool:
        return self._event_loop is not None and self._death is None

    @property
    def is_running(self) -> bool:
        """Whether the engine's thread is alive, even in a step that never ends."""
        return self._loop.is_running

    def cached_blocks(self) -> list[BlockHash]:
        """What the prefix cache holds, the latest last. Callable from any thread."""
        return self._pool.cached_contents()

    def start(self) -> None:
        """Starts the engine's thread; to be called in the event loop that will call `generate`."""
        self._event_loop = asyncio.get_running_loop()
        self._loop.start()
        if self._watchdog is not None:
            self._watchdog.start()

    async def stop(self, seconds: float | None = None) -> bool:
        """Ends the engine's thread after the step it is in. Open requests get no more output.

        Args:
            seconds: to wait at most for that step.

        Returns: False if the step went on for longer; see `EngineLoop.stop`.
        """
        if self._watchdog is not None:
            self._watchdog.stop()
        if self._event_loop is None:
            return True
        return await asyncio.to_thread(self._loop.stop, seconds)

    def check_health(self) -> None:
        """Raises EngineDeadError if a step has crashed, or has not ended in time."""
        if self._death is not None:
            raise EngineDeadError(self._death)

    def end_requests(self) -> None:
        """Ends every open request, and each later one, with a ShuttingDownError. To be called in
        the event loop's thread."""
        self._is_closed = True
        for stream in self._streams.values():
            stream.put_nowait(ShuttingDownError())

    async def generate(self, request: Request) -> AsyncGenerator[RequestOutput, None]:
        """Yields the request's outputs, a step each, up to the one with a finish reason.

        Leaving the iteration early (closing the generator, cancellation) aborts the request: its
        blocks are free before the engine's next step.

        Raises:
            EngineDeadError: a step crashed, before or during this request.
            ShuttingDownError: the server ends.
            ContextLengthError: the prompt leaves no room for a token.
            InvalidRequestError: the prompt is empty, or the id is that of an open request.
            GrammarError: the grammar can't be enforced, or takes too long to compile.
            GrammarCostError: the grammar takes more than its share of the engine's steps.
        """
        self._check(request)
        # Held until the request is over, so that the engine's thread never has to compile.
        _held = await self._compiled(request)
        # Again after the line above, which waits: the engine may have died meanwhile, and would not
        # tell, or another request may have come with this id.
        self._check_open(request.request_id)
        stream = self._streams[request.request_id] = asyncio.Queue()
        self._loop.submit(request)
        finished = False
        try:
            while not finished:
                output = await stream.get()
                if isinstance(output, GlidecapeError):
                    raise output
                finished = output.finish_reason is not None
                if output.grammar_exceeded is not None:
                    raise GrammarCostError(output.grammar_exceeded)
                yield output
        finally:
            del self._streams[request.request_id]
            if not finished:
                self.finish(request.request_id, "abort")

    def _check_open(self, request_id: RequestId) -> None:
        self.check_health()
        if self._is_closed:
            raise ShuttingDownError
        self._check_id(request_id)

    def _check_id(self, request_id: RequestId) -> None:
        if request_id in self._streams:
            raise InvalidRequestError(f"request id {request_id!r} is taken")

    async def _compiled(self, request: Request) -> CompiledGrammar | None:
        if request.params.grammar is None:
            return None
        if self._grammars is None:
            raise GrammarError("this engine has no grammars")
        return await self._grammars.prepare(request.params)

    def _check(self, request: Request) -> None:
        """Raises here what the scheduler would refuse: an error in the engine's thread ends it."""
        check_request(request, self.max_model_len)
        self._check_id(request.request_id)

    def finish(self, request_id: RequestId, reason: FinishReason) -> None:
        """Ends a request from outside, for example at a stop string. It yields no more output;
        close its generator after this."""
        self._loop.submit(Finish(request_id, reason))

    def fail(self, error: Exception) -> None:
        """Ends the engine as a crashed step does. Callable from any thread. Clients are told at
        once: the engine's own thread may hang in its step."""
        # Before clients hear of it and leave: their requests are counted as errors, not as aborts.
        self._loop.submit(Failure(error))
        self._died(error)

    def _publish(self, outputs: list[RequestOutput]) -> None:
        if outputs:
            self._in_event_loop(self._deliver, outputs)

    def _deliver(self, outputs: list[RequestOutput]) -> None:
        for output in outputs:
            stream = self._streams.get(output.request_id)
            if stream is not None:  # gone: the client left while the step ran
                stream.put_nowait(output)

    def _died(self, error: BaseException) -> None:
        if self._death is None:
            self._death = f"the engine stopped: {type(error).__name__}: {error}"
            self._in_event_loop(self._deliver_death, self._death)

    def _deliver_death(self, death: str) -> None:
        for stream in self._streams.values():
            stream.put_nowait(EngineDeadError(death))

    def _in_event_loop(self, call: Callable[[T], None], argument: T) -> None:
        """Makes a call in the event loop's thread, which may be closed already at shutdown."""
        if self._event_loop is not None:
            with suppress(RuntimeError):
                self._event_loop.call_soon_threadsafe(call, argument)


def check_request(request: Request, max_model_len: int) -> None:
    """Raises InvalidRequestError or ContextLengthError where no engine of this context can serve a
    request."""
    num_tokens = len(request.prompt_token_ids)
    if num_tokens == 0:
        raise InvalidRequestError("the prompt is empty")
    if not request.fits(max_model_len):
        raise ContextLengthError(
            f"the prompt has {num_tokens} tokens; "
            f"the context holds {max_model_len}, one of them for the answer"
        )
