"""One sending of a request to a replica. Where that replica is lost, the next attempt has another
id, so that what still comes of the first can't be taken for the second's.
"""

import asyncio
import time
from dataclasses import dataclass, field, replace

from server.engine.outputs import FinishedRequest, RequestOutput
from server.engine.types import FinishReason, Request, RequestId
from server.errors import GlidecapeError
from server.replicas.calls import FrontAddress, RunCall


class ReplicaLostError(GlidecapeError):
    """The replica that had a request can't finish it."""


@dataclass(eq=False, slots=True)
class Attempt:
    """A request that a replica has, or is about to get."""

    request: Request
    """As the API gave it; the replica gets it with the attempt's own id."""
    call: RunCall
    stream: asyncio.Queue[RequestOutput | GlidecapeError] = field(
        default_factory=lambda: asyncio.Queue[RequestOutput | GlidecapeError]()
    )
    began: float = field(default_factory=time.monotonic)
    replica: str | None = None
    running: asyncio.Task[None] | None = None
    """Waits for its call to be over."""
    reason: FinishReason | None = None
    """Why the API ended it, before the engine did."""
    is_finishing: bool = False
    """Its replica was told to end it."""
    has_output: bool = False
    is_over: bool = False
    """Its last output has come."""
    is_left: bool = False
    """Nobody reads its outputs any more."""
    is_told: bool = False
    """Its engine has said how it ended."""

    @classmethod
    def of(
        cls,
        request: Request,
        number: int,
        front: FrontAddress,
        avoid: frozenset[str],
        block_size: int,
    ) -> "Attempt":
        """The request's attempt of that number."""

        def own(request_id: RequestId) -> RequestId:
            return RequestId(f"{request_id}#{number}")

        leader = request.shares_prompt_with
        sent = replace(
            request,
            request_id=own(request.request_id),
            shares_prompt_with=None if leader is None else own(leader),
        )
        call = RunCall(front, sent, avoid, block_size, list(request.prompt_token_ids))
        return cls(request, call)

    @property
    def id(self) -> RequestId:
        return self.call.request.request_id

    @property
    def num_output_tokens(self) -> int:
        """That have arrived and been read."""
        return len(self.call.token_ids) - len(self.request.prompt_token_ids)

    async def next_output(self) -> RequestOutput:
        """Raises whatever ended it instead, of the server's own errors; ReplicaLostError where
        tokens are missing that a broken connection took with it."""
        output = await self.stream.get()
        if isinstance(output, GlidecapeError):
            raise output
        if output.num_output_tokens != self.num_output_tokens + len(output.token_ids):
            raise ReplicaLostError("the connection to it broke")
        self.has_output = True
        self.is_over = output.finish_reason is not None
        self.call.token_ids.extend(output.token_ids)
        self.call.is_answered = self.is_over
        return replace(output, request_id=self.request.request_id)

    def cancel(self) -> None:
        """Ends its call, and with it the request in its replica. Serve sends that to where the call
        is, also where no new ones are sent to."""
        self.call.is_given_up = self.replica is None and not self.has_output
        if self.running is not None:
            self.running.cancel()

    def as_told(self, ended: FinishedRequest) -> FinishedRequest:
        """What an engine says of its end, with what the front alone knows."""
        reason = ended.reason
        if reason == "abort" and self.reason is not None:  # it could only be cancelled
            reason = self.reason
        return replace(ended, request=self.request, reason=reason)

    def given_up(self) -> FinishedRequest:
        """What is known of it where no engine can say how it ended."""
        return FinishedRequest(
            request=self.request,
            reason="error",
            num_prompt_tokens=len(self.request.prompt_token_ids),
            num_output_tokens=self.num_output_tokens,
            queue_seconds=0.0,
            prefill_seconds=0.0,
            decode_seconds=0.0,
            e2e_seconds=time.monotonic() - self.began,
        )
