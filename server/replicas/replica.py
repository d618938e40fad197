"""A replica: an engine in a process of Ray, and the calls that fronts make.

    run       one request; over when the request is, so that Serve counts and drains it
    outputs   one stream for each front, with the outputs of all its requests

A request's call and its outputs travel apart: see `mailbox.py`.
"""

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from server.config import ModelSettings, load_settings
from server.engine.outputs import FinishedRequest, StepStats
from server.engine.types import RequestId
from server.errors import GlidecapeError
from server.loading.facts import ModelFacts
from server.loading.model import LoadedModel, build_model
from server.observe.merged import render_labelled
from server.observe.metrics import Metrics
from server.replicas.calls import AddressedCall, Batch, Finish, PackedError, RunCall
from server.replicas.mailbox import Mailbox
from server.replicas.routing.known_blocks import shortened

LINGER_SECONDS = 2.0
"""How long a front's stream goes on without a request."""
_MAX_ENDING = 2**14
"""Requests whose end the engine has still to tell of. It tells of none that it has refused."""
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
        self._mailboxes: dict[str, Mailbox] = {}
        self._runs: dict[RequestId, asyncio.Task[None]] = {}
        self._fronts: OrderedDict[RequestId, str] = OrderedDict()
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

        Outputs and errors of the server's own tree go to the front's mailbox; the call raises
        others, and EngineDeadError where the engine is dead before the request comes.
        """
        self._start()
        # A dead engine had no part in this request: raised here, and not told by the mailbox as
        # the end of a step is, so that the front sends it to another replica.
        self._model.engine.check_health()
        attempt_id = call.request.request_id
        mailbox = self._mailboxes.setdefault(call.front, Mailbox())
        mailbox.num_open += 1
        self._fronts[attempt_id] = call.front
        while len(self._fronts) > _MAX_ENDING:
            self._fronts.popitem(last=False)
        task = asyncio.create_task(self._pump(call, mailbox))
        self._runs[attempt_id] = task
        try:
            await asyncio.wait({task})
            if not task.cancelled():
                task.result()
        finally:
            task.cancel()
            del self._runs[attempt_id]
            mailbox.num_open -= 1
            asyncio.get_running_loop().call_later(LINGER_SECONDS, self._tidy, call.front)

    async def _pump(self, call: RunCall, mailbox: Mailbox) -> None:
        try:
            async with aclosing(self._model.engine.generate(call.request)) as outputs:
                async for output in outputs:
                    mailbox.put(output)
        except GlidecapeError as error:
            mailbox.put_error(call.request.request_id, PackedError.of(error))

    async def outputs(self, call: AddressedCall) -> AsyncGenerator[Batch, None]:
        """Yields what there is for a front, until it has had no request for a while."""
        self._start()
        mailbox = self._mailboxes.setdefault(call.front, Mailbox())
        mailbox.num_streams += 1
        try:
            async with aclosing(mailbox.batches(LINGER_SECONDS)) as batches:
                async for batch in batches:
                    yield batch
        finally:
            mailbox.num_streams -= 1
            self._tidy(call.front)

    def _tidy(self, front: str) -> None:
        """Drops the mailbox of a front that has no request and does not read; it may be gone."""
        mailbox = self._mailboxes.get(front)
        if mailbox is not None and not mailbox.num_open and not mailbox.num_streams:
            del self._mailboxes[front]

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
        blocks = shortened(self._model.engine.cached_blocks())
        stats = {
            "blocks": frozenset(blocks[-_MAX_PUBLISHED:]),
            "is_complete": len(blocks) <= _MAX_PUBLISHED,
            "num_open": dict(Counter({k: m.num_open for k, m in self._mailboxes.items()})),
        }
        if any(self._published.get(key) != value for key, value in stats.items()):
            self._published = {**stats, "number": self._published["number"] + 1}
        return self._published

    def _observe(self, step: StepStats) -> None:
        """In the engine's thread."""
        self._metrics.record(step)
        if step.finished and self._event_loop is not None:
            self._event_loop.call_soon_threadsafe(self._tell_ended, step.finished)

    def _tell_ended(self, finished: tuple[FinishedRequest, ...]) -> None:
        for ended in finished:
            front = self._fronts.pop(ended.request.request_id, None)
            mailbox = self._mailboxes.get(front) if front is not None else None
            if mailbox is not None:
                request = replace(ended.request, prompt_token_ids=())
                mailbox.put_ended(replace(ended, request=request))
