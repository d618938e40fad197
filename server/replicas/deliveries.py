"""What comes of replicas, on its way to the attempts that it belongs to."""

import asyncio
from collections.abc import Callable

from server.engine.outputs import FinishedRequest
from server.engine.types import RequestId
from server.replicas.addressed import AddressedCalls
from server.replicas.attempt import Attempt, ReplicaLostError
from server.replicas.calls import Batch
from server.replicas.tasks import Tasks

_ENDING_SECONDS = 60.0
"""How long after a call's end its engine may take to say how the request ended: at least a step."""


class Deliveries:
    """Listens to every replica at which there are attempts, and hands each its own.

    Args:
        tell_ended: Gets what ended, for log and traces.
    """

    def __init__(
        self,
        calls: AddressedCalls,
        tasks: Tasks,
        tell_ended: Callable[[tuple[FinishedRequest, ...]], None],
    ) -> None:
        self._calls = calls
        self._tasks = tasks
        self._tell_ended = tell_ended
        self._attempts: dict[RequestId, Attempt] = {}
        """Those that are read, and those of which an engine has still to say how they ended."""
        self._listening: dict[str, asyncio.Task[None]] = {}

    def expect(self, attempt: Attempt) -> None:
        """To be called before the attempt is sent."""
        self._attempts[attempt.id] = attempt

    def leave(self, attempt: Attempt) -> None:
        """Nobody reads the attempt's outputs any more; how it ended is still to be told."""
        attempt.is_left = True
        if attempt.is_told:
            self.forget(attempt)

    def forget(self, attempt: Attempt) -> None:
        """Drops whatever comes of an attempt from now on."""
        self._attempts.pop(attempt.id, None)

    def forget_later(self, attempt: Attempt) -> None:
        """The attempt's call is over. Its engine tells how it ended, unless it never had it."""
        asyncio.get_running_loop().call_later(_ENDING_SECONDS, self.forget, attempt)

    def routed(self, attempt: Attempt, replica: str) -> None:
        """A replica has taken an attempt."""
        attempt.replica = replica
        if replica not in self._listening:
            self._listening[replica] = self._tasks.keep(self._listen(replica))

    async def _listen(self, replica: str) -> None:
        """Delivers a replica's outputs for as long as they are read there."""
        error = ReplicaLostError("its outputs ended")
        try:
            is_read = True
            while is_read:
                await self._calls.listen(replica, self._deliver)
                is_read = any(not attempt.is_left for attempt in self._of(replica))
        except ReplicaLostError as reason:
            error = reason
        finally:
            del self._listening[replica]
            self._lose(replica, error)

    def _of(self, replica: str) -> list[Attempt]:
        return [attempt for attempt in self._attempts.values() if attempt.replica == replica]

    def _deliver(self, batch: Batch) -> None:
        for output in batch.outputs:
            attempt = self._attempts.get(output.request_id)
            if attempt is not None:  # gone: the client left while the step ran
                attempt.stream.put_nowait(output)
        for attempt_id, error in batch.errors:
            attempt = self._attempts.get(attempt_id)
            if attempt is not None:
                attempt.stream.put_nowait(error.unpacked())
        ended = tuple(filter(None, map(self._as_told, batch.ended)))
        if ended:
            self._tell_ended(ended)

    def _as_told(self, ended: FinishedRequest) -> FinishedRequest | None:
        """None for an attempt that another one has replaced."""
        attempt = self._attempts.get(ended.request.request_id)
        if attempt is None:
            return None
        attempt.is_told = True
        if attempt.is_left:
            self.forget(attempt)
        return attempt.as_told(ended)

    def _lose(self, replica: str, error: ReplicaLostError) -> None:
        """Ends the attempts at a replica whose outputs come no more."""
        for attempt in self._of(replica):
            attempt.stream.put_nowait(error)
            self.forget(attempt)
