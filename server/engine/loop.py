"""The engine's own thread: takes requests from an inbox, steps, and publishes outputs.

    while not stopped:  take the inbox -> schedule -> execute -> update -> publish

Nothing else touches the scheduler or the model, so neither needs a lock.
"""

import atexit
import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

from server.engine.plan import StepPlan, StepResult
from server.engine.scheduler import Scheduler
from server.engine.types import FinishReason, Request, RequestId, RequestOutput, StepStats

logger = logging.getLogger(__name__)


class Executes(Protocol):
    """What the loop needs of a runner."""

    def execute(self, plan: StepPlan) -> StepResult: ...

    def forget(self, request_id: RequestId) -> None:
        """The request is over, for whatever reason."""
        ...


class Finish(NamedTuple):
    """Inbox message: end a request from outside."""

    request_id: RequestId
    reason: FinishReason


class Failure(NamedTuple):
    """Inbox message: something that steps depend on is gone; the loop dies of it."""

    error: Exception


class Stop:
    """Inbox message: leave the loop."""


class EngineLoop:
    """Runs steps until stopped or a step raises.

    Args:
        publish: called in the engine's thread with each step's outputs.
        died: called once in the engine's thread if a step raises; the loop is over then.
        observe: called in the engine's thread with each step's figures.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        runner: Executes,
        publish: Callable[[list[RequestOutput]], None],
        died: Callable[[BaseException], None],
        observe: Callable[[StepStats], None],
    ) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._publish = publish
        self._died = died
        self._observe = observe
        self._inbox: queue.SimpleQueue[Request | Finish | Failure | Stop] = queue.SimpleQueue()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        # A process that exits without stop() must not tear the interpreter down under a step.
        atexit.register(self.stop)
        self._thread.start()

    def submit(self, message: Request | Finish | Failure) -> None:
        """From any thread; taken up before the next step."""
        self._inbox.put(message)

    def stop(self) -> None:
        """Returns when the thread has ended; a running step is finished first."""
        atexit.unregister(self.stop)
        self._inbox.put(Stop())
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._take_inbox()
                self._step()
        except BaseException as error:
            logger.exception("the engine's step crashed")
            self._scheduler.finish_all("error", time.monotonic())
            self._observe(self._scheduler.take_stats(None, 0.0))
            self._died(error)

    def _take_inbox(self) -> None:
        """Handles all messages; waits for one when there is nothing to compute."""
        wait = not self._scheduler.has_work
        while wait or not self._inbox.empty():
            message = self._inbox.get()
            wait = False
            match message:
                case Request():
                    self._scheduler.add(message, time.monotonic())
                case Finish(request_id, reason):
                    self._scheduler.finish(request_id, reason, time.monotonic())
                    self._runner.forget(request_id)
                case Failure(error):
                    raise error
                case Stop():
                    self._stopping = True

    def _step(self) -> None:
        started = time.monotonic()
        plan = None if self._stopping else self._scheduler.schedule(started)
        if plan is None:
            self._scheduler.check_integrity()
            self._observe(self._scheduler.take_stats(None, 0.0))
            return
        result = self._runner.execute(plan)
        now = time.monotonic()
        outputs = self._scheduler.update(plan, result, now)
        for output in outputs:
            if output.finish_reason is not None:
                self._runner.forget(output.request_id)
        # Figures first: whoever has its answer finds it counted.
        self._observe(self._scheduler.take_stats(plan, now - started, result.speculation))
        self._publish(outputs)
