"""Outputs of a replica's engine on their way to one front, several in a batch.

One stream carries those of all requests: Ray takes a millisecond or more for each item of a stream.
"""

import asyncio
from collections.abc import AsyncGenerator

from server.engine.outputs import FinishedRequest, RequestOutput
from server.engine.types import RequestId
from server.replicas.calls import Batch, PackedError


class Mailbox:
    """For one front, in the replica's event loop."""

    def __init__(self) -> None:
        self.num_open = 0
        """Requests of this front."""
        self.num_streams = 0
        """Streams that read it: one, unless one has just broken."""
        self._outputs = list[RequestOutput]()
        self._errors = list[tuple[RequestId, PackedError]]()
        self._ended = list[FinishedRequest]()
        self._changed = asyncio.Event()

    def put(self, output: RequestOutput) -> None:
        self._outputs.append(output)
        self._changed.set()

    def put_error(self, request_id: RequestId, error: PackedError) -> None:
        self._errors.append((request_id, error))
        self._changed.set()

    def put_ended(self, request: FinishedRequest) -> None:
        self._ended.append(request)
        self._changed.set()

    async def batches(self, linger: float) -> AsyncGenerator[Batch, None]:
        """Yields what comes; ends when the front has had no request for so many seconds. A stream
        that never ended would keep the replica from being drained, and would count as load."""
        while True:
            try:
                async with asyncio.timeout(linger):
                    await self._changed.wait()
            except TimeoutError:
                if self.num_open or self._changed.is_set():
                    continue
                return
            yield self._take()

    def _take(self) -> Batch:
        self._changed.clear()
        batch = Batch(tuple(self._outputs), tuple(self._errors), tuple(self._ended))
        self._outputs.clear()
        self._errors.clear()
        self._ended.clear()
        return batch
