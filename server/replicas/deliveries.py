"""What comes of replicas, on its way to the attempts that it belongs to."""

import asyncio
from collections.abc import Callable

from server.engine.outputs import FinishedRequest
from server.engine.types import RequestId
from server.replicas.attempt import Attempt
from server.replicas.calls import Batch

_ENDING_SECONDS = 60.0
"""How long after a call's end its engine may take to say how the request ended: at least a step."""


class Deliveries:
    """Hands each attempt what comes for it.

    Args:
        tell_ended: Gets what ended, for log and traces.
    """

    def __init__(self, tell_ended: Callable[[tuple[FinishedRequest, ...]], None]) -> None:
        self._tell_ended = tell_ended
        self._attempts: dict[RequestId, Attempt] = {}
        """Those that are read, and those of which an engine has still to say how they ended."""

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

    def deliver(self, batch: Batch) -> None:
        """Takes what has come."""
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
