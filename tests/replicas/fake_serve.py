"""Ray Serve's handle of a deployment, without Ray: a test says what replicas answer."""

import asyncio
from collections.abc import Callable, Generator
from typing import Any

from server.engine.outputs import FinishedRequest, RequestOutput
from server.engine.types import FinishReason, RequestId, SamplingDefaults, SpeculationParams
from server.errors import GlidecapeError
from server.loading.facts import ModelFacts
from server.replicas.calls import AddressedCall, Finish, PackedError, RunCall
from server.replicas.outputs import OutputSender


class Response:
    """Of a call; ends as the test says."""

    def __init__(self) -> None:
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True
        self.future.cancel()

    def __await__(self) -> Generator[Any, None, Any]:
        return self.future.__await__()


class Method:
    def __init__(self, remote: Callable[..., Response]) -> None:
        self.remote = remote


class FakeServe:
    """Takes the n-th request to the n-th of the names, over and over.

    Args:
        names: Of the replicas; with none, requests wait for one.
    """

    def __init__(self, *names: str) -> None:
        self.names = names
        self.runs = list[tuple[RunCall, Response]]()
        self._senders: dict[str, OutputSender] = {}
        self.finished = list[tuple[str, Finish]]()
        self.on_run: Callable[[RunCall, Response], None] = lambda call, response: None
        """Told of each request; may end its call, or raise."""
        self.on_addressed: Callable[[AddressedCall, Response], None] = lambda call, response: None
        """Told of each other call."""
        self.run = Method(self._run)
        self.finish = Method(self._finish)
        self.metrics_text = Method(self._metrics_text)
        self.facts = Method(self._facts)
        self.identities: dict[str, str] = {}
        """Of replicas unlike the first one."""

    def sender(self, call: RunCall) -> OutputSender:
        """What the replica that has the request sends its outputs by."""
        name = self.names[self.number(call) % len(self.names)]
        if name not in self._senders:
            self._senders[name] = OutputSender(call.front)
        return self._senders[name]

    def number(self, call: RunCall) -> int:
        return next(number for number, (each, _) in enumerate(self.runs) if each is call)

    def close(self) -> None:
        for sender in self._senders.values():
            sender.close()

    def _run(self, call: RunCall) -> Response:
        response = Response()
        self.runs.append((call, response))
        if call.on_routed is not None and self.names:
            call.on_routed(self.names[(len(self.runs) - 1) % len(self.names)])
        self.on_run(call, response)
        return response

    def _finish(self, call: AddressedCall, what: Finish) -> Response:
        self.finished.append((call.replica, what))
        return self._addressed(call)

    def _metrics_text(self, call: AddressedCall) -> Response:
        return self._addressed(call)

    def _facts(self, call: AddressedCall) -> Response:
        response = Response()
        response.future.set_result(facts(self.identities.get(call.replica, "first")))
        return response

    def _addressed(self, call: AddressedCall) -> Response:
        response = Response()
        self.on_addressed(call, response)
        return response


def facts(identity: str) -> ModelFacts:
    return ModelFacts(
        *("tiny", identity, "float32", "native", "none"),
        SpeculationParams(),
        can_speculate=False,
        vocab_size=32,
        max_model_len=64,
        default_sampling=SamplingDefaults(),
    )


def output(
    call: RunCall, number: int, token_id: int, reason: FinishReason | None = None
) -> RequestOutput:
    """An answer's token of that number, counted from 1, as the engine sends it."""
    return RequestOutput(call.request.request_id, (token_id,), None, reason, None, 1, number, 0)


def error(call: RunCall, what: GlidecapeError) -> tuple[RequestId, PackedError]:
    return call.request.request_id, PackedError.of(what)


def ended(call: RunCall, reason: FinishReason) -> FinishedRequest:
    return FinishedRequest(call.request, reason, 1, 1, 0.0, 0.0, 0.0, 0.0)


async def until(condition: Callable[[], object]) -> None:
    """Waits for what other tasks or sockets bring about."""
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)
