"""Notices a step that never ends: native code may hang, and raises nothing then."""

import logging
import threading
from collections.abc import Callable

from server.engine.loop import EngineLoop
from server.errors import StepTimeoutError

logger = logging.getLogger(__name__)

_LOOKS = 20
"""Looks within one time-out."""


class Watchdog:
    """Looks at the engine's loop at regular intervals, in a thread of its own.

    Looks are counted, not seconds: a process that was stopped for a while (by a debugger, or with
    its machine) finds much time gone, but has looked no more often.

    Args:
        seconds: the longest that a step may take.
        hung: called once, in the watchdog's thread, if a step takes longer; the watch ends then.
    """

    def __init__(
        self, loop: EngineLoop, seconds: float, hung: Callable[[StepTimeoutError], None]
    ) -> None:
        self._loop = loop
        self._seconds = seconds
        self._hung = hung
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the watch."""
        self._stopped.set()

    def _run(self) -> None:
        last: int | None = None
        num_looks = 0
        while not self._stopped.wait(self._seconds / _LOOKS):
            turn = self._loop.turn
            num_looks = num_looks + 1 if turn is not None and turn == last else 0
            last = turn
            if num_looks >= _LOOKS:
                error = StepTimeoutError(f"a step has not ended within {self._seconds:g} seconds")
                self._hung(error)
                logger.error("%s; the engine's thread is here:\n%s", error, self._loop.stack())
                return
