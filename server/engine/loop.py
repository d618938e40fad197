"""The engine's own thread: takes requests from an inbox, steps, and publishes outputs.

    while not stopped:  take the inbox -> schedule -> execute -> update -> publish

Nothing else touches the scheduler or the model, so neither needs a lock. Who watches the steps
(metrics, logs, traces) can't harm them: what an observer raises is logged, and forgotten.
"""

import atexit
import logging
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import NamedTuple, Protocol

from server.engine.outputs import RequestOutput, StepStats
from server.engine.schedule.plan import StepPlan, StepResult
from server.engine.schedule.scheduler import Scheduler
from server.engine.types import FinishReason, Request, RequestId

logger = logging.getLogger(__name__)


class Executes(Protocol):
    """What the loop needs of a runner."""

    def execute(self, plan: StepPlan) -> StepResult: ...

    def forget(self, request_id: RequestId) -> None:
        """Drops what is kept for a request that has ended, for whatever reason."""
        ...


class Finish(NamedTuple):
    """Inbox message: end a request from outside."""

    request_id: RequestId
    reason: FinishReason


class Failure(NamedTuple):
    """Inbox message: something that steps depend on has failed, and the loop ends with this
    error."""

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
        self._turn = 0
        self._is_idle = True
        self._observer_faults: set[type[Exception]] = set()
        """Kinds of observers' errors that were logged once: an observer may fail at every step."""
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        # A process that exits without stop() must not tear the interpreter down under a step.
        atexit.register(self.stop)
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether its thread is alive, even if it is stuck in a step."""
        return self._thread.is_alive()

    @property
    def turn(self) -> int | None:
        """A number that rises with every step, for the watchdog; None while there is nothing to
        do."""
        return None if self._is_idle else self._turn

    def stack(self) -> str:
        """The stack of its thread, for a log."""
        frame = sys._current_frames().get(self._thread.ident or 0)  # pyright: ignore[reportPrivateUsage]
        return "".join(traceback.format_stack(frame)) if frame else "its thread has ended"

    def submit(self, message: Request | Finish | Failure) -> None:
        """Adds a message to the inbox, which is read before the next step. Callable from any
        thread."""
        self._inbox.put(message)

    def stop(self, seconds: float | None = None) -> bool:
        """Returns when the thread has ended; a running step is finished first.

        Args:
            seconds: to wait at most; None waits for as long as the step takes.

        Returns: False if it has not ended in time. The process must then end by `os._exit`:
            another way would tear the interpreter down under the step.
        """
        atexit.unregister(self.stop)
        self._inbox.put(Stop())
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._take_inbox()
                self._turn += 1
                self._step()
        except BaseException as error:
            self._die(error)
        self._is_idle = True

    def _die(self, error: BaseException) -> None:
        """Figures first, as in a step; but nothing that fails here keeps clients from their
        answers."""
        try:
            logger.error("the engine's step crashed", exc_info=error)
            self._scheduler.finish_all("error", time.monotonic())
            self._tell(self._scheduler.take_stats(None, 0.0))
        except BaseException:
            logger.exception("counting the crash failed too")
        finally:
            self._died(error)

    def _take_inbox(self) -> None:
        """Handles all messages; waits for one when there is nothing to compute."""
        wait = not self._scheduler.has_work
        while wait or not self._inbox.empty():
            self._is_idle = wait
            message = self._inbox.get()
            self._is_idle = wait = False
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
            self._check_blocks()
            self._tell(self._scheduler.take_stats(None, 0.0))
            return
        result = self._runner.execute(plan)
        now = time.monotonic()
        outputs = self._scheduler.update(plan, result, now)
        for output in outputs:
            if output.finish_reason is not None:
                self._runner.forget(output.request_id)
        # Figures first: whoever has its answer finds it counted.
        self._tell(self._scheduler.take_stats(plan, now - started, result.speculation))
        self._publish(outputs)

    def _check_blocks(self) -> None:
        """Raises RuntimeError if blocks leaked. Not whenever it is idle in full: that takes up to a
        second for a large pool, and the next request would wait for it."""
        if self._stopping:
            self._scheduler.check_integrity()
        else:
            self._scheduler.check_idle()

    def _tell(self, stats: StepStats) -> None:
        try:
            self._observe(stats)
        except Exception as error:
            if type(error) not in self._observer_faults:
                self._observer_faults.add(type(error))
                logger.exception("an observer of the steps failed; its later failures are not told")
