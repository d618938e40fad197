"""The engine as the API sees it, where several replicas serve: each request goes to one of them."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from server.engine.async_engine import check_request
from server.engine.outputs import FinishedRequest, RequestOutput
from server.engine.types import FinishReason, Request, RequestId
from server.errors import EngineDeadError, InvalidRequestError, ShuttingDownError
from server.loading.facts import ModelFacts
from server.replicas.addressed import AddressedCalls
from server.replicas.attempt import Attempt, ReplicaLostError
from server.replicas.calls import Finish
from server.replicas.deliveries import Deliveries
from server.replicas.outputs import OutputReceiver
from server.replicas.routing.directory import Directory
from server.replicas.tasks import Tasks, is_cancelled_itself

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

_ATTEMPTS = 3
"""Replicas that a request is sent to, one after another, as long as none has sent a token."""
_LOOK_SECONDS = 1.0
_FACTS_SECONDS = 60.0
_LAST_OUTPUTS_SECONDS = 10.0
"""How long a request's outputs may take to arrive when its replica says that it is over."""

logger = logging.getLogger(__name__)


class ReplicatedEngine:
    """What the API needs of an engine, over Ray Serve's replicas.

    Args:
        deployment: Serve's handle of `EngineReplica`.
        directory: The replicas that there are.
        receiver: Where their outputs come.
        facts: Of the model of one of them.
        block_size: Of their prefix caches; 0 where they have none.
        replacement_seconds: How long there may be no replica at all until this counts as dead.
        tell_ended: Gets what ended, for log and traces.
    """

    is_running = True
    """Ray's threads go on to the end, and end the process with an error of their own where Python
    takes itself down under them."""

    def __init__(
        self,
        deployment: "DeploymentHandle[Any]",
        directory: Directory,
        receiver: OutputReceiver,
        facts: ModelFacts,
        block_size: int,
        replacement_seconds: float,
        tell_ended: Callable[[tuple[FinishedRequest, ...]], None],
    ) -> None:
        self.max_model_len = facts.max_model_len
        self.num_given_up = 0
        """Requests that ended with their replicas."""
        self._identity = facts.identity
        self._compared = set[str]()
        self._receiver = receiver
        self._directory = directory
        self._block_size = block_size
        self._replacement_seconds = replacement_seconds
        self._tell_ended = tell_ended
        self._tasks = Tasks()
        self._run: Any = deployment.run
        self._calls = AddressedCalls(deployment, self._tasks)
        self._deliveries = Deliveries(tell_ended)
        self._open: dict[RequestId, Attempt] = {}
        self._is_closed = False

    def start(self) -> None:
        """To be called in the event loop that will call `generate`."""
        self._tasks.start()
        self._receiver.start(self._deliveries.deliver)
        self._tasks.keep(self._watch_health())

    @property
    def is_ready(self) -> bool:
        return self._tasks.is_started and bool(self._directory.names)

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
                for attempt in self._open.values():
                    attempt.stream.put_nowait(EngineDeadError(str(error)))

    def end_requests(self) -> None:
        """Ends every open request, and each later one, with a ShuttingDownError."""
        self._is_closed = True
        for attempt in self._open.values():
            attempt.stream.put_nowait(ShuttingDownError())

    async def metrics_texts(self, seconds: float) -> dict[str, str | None]:
        """The metrics of each replica, in Prometheus's text format; None for one that does not
        answer in time."""
        found: dict[str, str | None] = dict.fromkeys(self.replicas)

        async def ask(replica: str) -> None:
            with suppress(ReplicaLostError, TimeoutError):
                async with asyncio.timeout(seconds):
                    found[replica] = await self._calls.metrics_text(replica)

        await asyncio.gather(*(self._tasks.keep(ask(name)) for name in found))
        return found

    # Requests.

    async def generate(self, request: Request) -> AsyncGenerator[RequestOutput, None]:
        """Yields the request's outputs. Leaving the iteration early aborts the request.

        A replica that is lost before the request's first output is replaced by another one. One
        whose engine died in a step is not: the request may be what it died of, and would end the
        next one too.

        Raises:
            EngineDeadError: the request's replica is gone, and it can't be sent to another.
            ShuttingDownError: the server ends.
            InvalidRequestError: as `AsyncEngine.generate`; and GrammarError, GrammarCostError.
        """
        check_request(request, self.max_model_len)
        if request.request_id in self._open:
            raise InvalidRequestError(f"request id {request.request_id!r} is taken")
        avoid = frozenset[str]()
        for number in range(1, _ATTEMPTS + 1):
            self.check_health()
            if self._is_closed:
                raise ShuttingDownError
            attempt = self._begin(request, number, avoid)
            try:
                while not attempt.is_over:
                    yield await attempt.next_output()
                return
            except (ReplicaLostError, EngineDeadError) as error:
                self._deliveries.forget(attempt)
                is_lost = isinstance(error, ReplicaLostError)
                if not is_lost or attempt.has_output or number == _ATTEMPTS:
                    logger.warning("%s can't be finished: %s", request.request_id, error)
                    self._give_up(attempt)
                    raise EngineDeadError(f"the request's replica is gone: {error}") from error
                logger.warning("%s is sent to another replica: %s", request.request_id, error)
                avoid |= {attempt.replica} if attempt.replica else frozenset()
            finally:
                self._leave(attempt)

    def finish(self, request_id: RequestId, reason: FinishReason) -> None:
        """Ends a request from outside; it yields no more output."""
        attempt = self._open.get(request_id)
        if attempt is None:
            return
        attempt.reason = reason
        if attempt.replica in self._directory.names:
            attempt.is_finishing = True
            self._tasks.keep(self._tell_finish(attempt, attempt.replica, reason))
        else:  # it is drained: it can't be told anything, but its call can be cancelled
            attempt.cancel()

    async def _tell_finish(self, attempt: Attempt, replica: str, reason: FinishReason) -> None:
        try:
            async with asyncio.timeout(_LAST_OUTPUTS_SECONDS):
                await self._calls.finish(replica, Finish(attempt.id, reason))
        except (ReplicaLostError, TimeoutError):
            attempt.cancel()

    def _begin(self, request: Request, number: int, avoid: frozenset[str]) -> Attempt:
        """Sends a request to the replica that the router chooses."""
        attempt = Attempt.of(request, number, self._receiver.address, avoid, self._block_size)
        self._open[request.request_id] = attempt
        self._deliveries.expect(attempt)

        def on_routed(replica: str) -> None:
            self._tasks.soon(self._routed, attempt, replica)

        attempt.call.on_routed = on_routed
        attempt.running = self._tasks.keep(self._watch(attempt))
        attempt.running.add_done_callback(lambda _: self._deliveries.forget_later(attempt))
        return attempt

    def _routed(self, attempt: Attempt, replica: str) -> None:
        """A replica has taken an attempt."""
        attempt.replica = replica
        if replica not in self._compared:
            self._compared = {replica, *self._compared.intersection(self.replicas)}
            self._tasks.keep(self._compare(replica))

    async def _compare(self, replica: str) -> None:
        """Tells of a replica that computes otherwise: on a machine of another kind, for example."""
        with suppress(ReplicaLostError, TimeoutError):
            async with asyncio.timeout(_FACTS_SECONDS):
                identity = (await self._calls.facts(replica)).identity
            if identity != self._identity:
                logger.warning(
                    "replica %s is unlike the first one, and may give other tokens for the same"
                    " seed: it has %s, and the first one %s",
                    *(replica, identity, self._identity),
                )

    async def _watch(self, attempt: Attempt) -> None:
        """Makes the call of an attempt, and says in its stream how it failed. However it ends, but
        by our own cancelling, nobody waits for ever."""
        response = None
        try:
            response = self._run.remote(attempt.call)
            await response
            if attempt.is_over or attempt.is_finishing:
                return
            await asyncio.sleep(_LAST_OUTPUTS_SECONDS)
            lost = f"its outputs did not arrive at {self._receiver.address.endpoint}"
        except asyncio.CancelledError:
            if response is not None:
                response.cancel()
            if is_cancelled_itself():
                raise
            lost = "its call was cancelled"
        except Exception as error:
            lost = type(error).__name__
        attempt.stream.put_nowait(ReplicaLostError(lost))

    def _leave(self, attempt: Attempt) -> None:
        """Nobody reads the attempt's outputs any more."""
        del self._open[attempt.request.request_id]
        self._deliveries.leave(attempt)
        is_taken = attempt.replica is not None or attempt.has_output
        attempt.call.is_answered = attempt.call.is_answered or is_taken
        if not attempt.is_over and not attempt.is_finishing:
            attempt.cancel()

    def _give_up(self, attempt: Attempt) -> None:
        """Counts a request whose engine can't say how it ended, and tells log and traces."""
        self.num_given_up += 1
        self._tell_ended((attempt.given_up(),))
