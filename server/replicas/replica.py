"""A replica: an engine in a process of Ray, and the calls that fronts make.

A request's call is over when the request is, so that Serve counts and drains it. Its outputs travel
beside it: see `outputs.py`.
"""

import asyncio
import logging
import time
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from server.config import ModelSettings, load_settings
from server.engine.outputs import FinishedRequest, StepStats
from server.engine.types import RequestId
from server.errors import GlidecapeError
from server.loading.facts import ModelFacts
from server.loading.model import LoadedModel, build_model
from server.memory import freeze_loaded
from server.observe.merged import render_labelled
from server.observe.metrics import Metrics
from server.replicas.calls import AddressedCall, Finish, FrontAddress, PackedError, RunCall
from server.replicas.outputs import OutputSender
from server.replicas.routing.known_blocks import shortened

_KEPT_SECONDS = 60.0
"""How long a front without a request is kept a connection for; it may be gone."""
_ENDING_SECONDS = 2.0
"""How long a call that is over waits for its engine to tell how the request ended: for a step. It
tells of none that it has refused."""
_MAX_PUBLISHED = 2**13
"""Blocks, the latest ones: 64 KB, which Serve hands to every front."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReplicaSettings:
    """What a replica is started with."""

    model: dict[str, Any]
    """Settings as `as_given` has them."""
    served_name: str
    """The label `model_name` of the metrics."""
    step_timeout: float


class EngineReplica:
    """What Ray Serve runs. Its event loop is the engine's too."""

    def __init__(self, settings: ReplicaSettings) -> None:
        logging.basicConfig(level=logging.INFO)
        self._metrics = Metrics(settings.served_name)
        self._senders: dict[str, OutputSender] = {}
        """By the fronts' names."""
        self._runs: dict[RequestId, asyncio.Task[None]] = {}
        self._ends: dict[RequestId, asyncio.Future[FinishedRequest]] = {}
        """How requests end, from their call's begin to its end."""
        self._published: dict[str, Any] = {"number": 0}
        self._event_loop: asyncio.AbstractEventLoop | None = None
        self._model: LoadedModel = build_model(
            load_settings(ModelSettings, **settings.model),
            logger.info,
            self._observe,
            settings.step_timeout,
        )
        limits = self._model.limits
        self._metrics.describe_cache(limits.block_size, limits.num_blocks)
        freeze_loaded()

    def __del__(self) -> None:
        """Serve calls it before it ends the process."""
        while self._senders:
            self._senders.popitem()[1].close()

    def _start(self) -> None:
        """Starts the engine with the first call: only then is it sure which event loop it is."""
        if self._event_loop is None:
            self._event_loop = asyncio.get_running_loop()
            self._model.engine.start()

    async def facts(self, call: AddressedCall | None = None) -> ModelFacts:
        """What a front has to know before it serves: of any replica, or of one."""
        self._start()
        return self._model.facts

    async def run(self, call: RunCall) -> None:
        """Runs a request to its end. Cancelling the call aborts it.

        Outputs and errors of the server's own tree are sent beside the call; it raises others, and
        EngineDeadError where the engine is dead before the request comes.
        """
        self._start()
        # A dead engine had no part in this request: raised here, and not sent as the end of a step
        # is, so that the front sends it to another replica.
        self._model.engine.check_health()
        attempt_id = call.request.request_id
        sender = self._sender(call.front)
        sender.num_open += 1
        self._ends[attempt_id] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._pump(call, sender))
        self._runs[attempt_id] = task
        try:
            await sender.connected()
            await asyncio.wait({task})
            if not task.cancelled():
                task.result()
        finally:
            task.cancel()
            del self._runs[attempt_id]
            sender.num_open -= 1
            sender.idle_since = time.monotonic()
            await self._tell_ended(attempt_id, sender)

    def _sender(self, front: FrontAddress) -> OutputSender:
        """What sends to a front."""
        sender = self._senders.get(front.name)
        if sender is not None and sender.is_broken:
            self._senders.pop(front.name).close()
        if front.name not in self._senders:
            self._senders[front.name] = OutputSender(front)
        return self._senders[front.name]

    def _close_idle_senders(self) -> None:
        long_ago = time.monotonic() - _KEPT_SECONDS
        for name, sender in list(self._senders.items()):
            if not sender.num_open and sender.idle_since < long_ago:
                self._senders.pop(name).close()

    async def _pump(self, call: RunCall, sender: OutputSender) -> None:
        try:
            async with aclosing(self._model.engine.generate(call.request)) as outputs:
                async for output in outputs:
                    sender.put(output)
        except GlidecapeError as error:
            sender.put_error(call.request.request_id, PackedError.of(error))

    async def finish(self, call: AddressedCall, what: Finish) -> None:
        """Ends a request of whose answer the front has enough; its `run` is over then too."""
        task = self._runs.get(what.request_id)
        if task is not None:
            self._model.engine.finish(what.request_id, what.reason)
            task.cancel()

    async def metrics_text(self, call: AddressedCall) -> str:
        """The engine's metrics, in Prometheus's text format, with this replica's name on each."""
        text = await asyncio.to_thread(render_labelled, self._metrics.registry, call.replica)
        return text.decode()

    async def check_health(self) -> None:
        """Serve replaces a replica for which this raises."""
        self._start()
        self._model.engine.check_health()

    async def record_routing_stats(self) -> dict[str, Any]:
        """What routers have to know: see `Published`."""
        self._close_idle_senders()
        blocks = shortened(self._model.engine.cached_blocks())
        stats = {
            "blocks": frozenset(blocks[-_MAX_PUBLISHED:]),
            "is_complete": len(blocks) <= _MAX_PUBLISHED,
            "num_open": {name: each.num_open for name, each in self._senders.items()},
        }
        if any(self._published.get(key) != value for key, value in stats.items()):
            self._published = {**stats, "number": self._published["number"] + 1}
        return self._published

    def _observe(self, step: StepStats) -> None:
        """In the engine's thread."""
        self._metrics.record(step)
        if step.finished and self._event_loop is not None:
            self._event_loop.call_soon_threadsafe(self._note_ended, step.finished)

    def _note_ended(self, finished: tuple[FinishedRequest, ...]) -> None:
        for ended in finished:
            found = self._ends.get(ended.request.request_id)
            if found is not None and not found.done():
                found.set_result(ended)

    async def _tell_ended(self, attempt_id: RequestId, sender: OutputSender) -> None:
        """Tells the front how a request ended, before its call is over: Serve may end the process
        then."""
        try:
            async with asyncio.timeout(_ENDING_SECONDS):
                ended = await self._ends[attempt_id]
            request = replace(ended.request, prompt_token_ids=())
            sender.put_ended(replace(ended, request=request))
        except TimeoutError:
            pass
        finally:
            del self._ends[attempt_id]
