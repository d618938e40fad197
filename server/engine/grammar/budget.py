"""How much of the engine's steps one request's grammar may take. Knows no grammars. Pure.

What a client's grammar costs per token is the client's choice: an ambiguous one costs more with
every token, in time and in memory. The engine's thread can't interrupt the matcher, but the cost
grows steadily (twice a token's cost is the next token's at worst), so measuring each call finds it
early enough.

    a step          at most STEP_SECONDS
    many steps      SUSTAINED_SECONDS each, and CREDIT_SECONDS beyond that
    memory          at most MAX_BYTES
    all requests    at most ALL_SECONDS in a step, and ALL_BYTES; the dearest ends
"""

import resource
import time
from collections.abc import Callable, Collection
from typing import TypeVar

STEP_SECONDS = 0.25
"""CPU time, so that a busy machine ends no request. An ordinary grammar takes a hundredth of it."""
SUSTAINED_SECONDS = 0.1
"""The costliest ordinary grammars, those of long strings with a length, take a fifth of it."""
CREDIT_SECONDS = 2.0
ALL_SECONDS = 0.4
MAX_BYTES = 256 * 2**20
ALL_BYTES = 2**30
_WATCHED_SECONDS = 0.05
"""Memory is checked after calls that take this long; shorter ones can't allocate much."""
_PAGE = resource.getpagesize()

T = TypeVar("T")


class Meter:
    """What one request's grammar has taken.

    Args:
        clock: returns the seconds of CPU time that this thread has used.
        resident: returns the bytes of memory that this process has.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.thread_time,
        resident: Callable[[], int] | None = None,
    ) -> None:
        self._clock = clock
        self._resident = resident or resident_bytes
        self._credit = CREDIT_SECONDS
        self._total = 0.0
        self.num_bytes = 0
        """Memory taken, estimated by how the process's memory grew."""
        self.step_seconds = 0.0
        """Seconds taken in this step so far."""
        self.exceeded: str | None = None
        """The resource of which it took too much, for people; after that no call may be run."""

    def next_step(self) -> None:
        self._credit = min(self._credit + SUSTAINED_SECONDS, CREDIT_SECONDS)
        self.step_seconds = 0.0

    def run(self, call: Callable[..., T], *arguments: object) -> T:
        """Runs a call of the matcher and charges what it takes."""
        watched = self._total > _WATCHED_SECONDS
        bytes_before = self._resident() if watched else 0
        started = self._clock()
        result = call(*arguments)
        self._charge(self._clock() - started)
        if watched:
            self.num_bytes += self._resident() - bytes_before
            if self.num_bytes > MAX_BYTES:
                self.exceeded = "memory"
        return result

    def _charge(self, seconds: float) -> None:
        self.step_seconds += seconds
        self._total += seconds
        self._credit -= seconds
        if self.step_seconds > STEP_SECONDS or self._credit < 0:
            self.exceeded = "time"


def end_dearest(meters: Collection[Meter]) -> None:
    """Ends the costliest grammars where all of a step's together have taken too much."""
    by_seconds = sorted(_going_on(meters), key=lambda meter: meter.step_seconds)
    while sum(meter.step_seconds for meter in by_seconds) > ALL_SECONDS:
        by_seconds.pop().exceeded = "time"
    by_bytes = sorted(_going_on(meters), key=lambda meter: meter.num_bytes)
    while sum(meter.num_bytes for meter in by_bytes) > ALL_BYTES:
        by_bytes.pop().exceeded = "memory"


def _going_on(meters: Collection[Meter]) -> list[Meter]:
    return [meter for meter in meters if not meter.exceeded]


def resident_bytes() -> int:
    """Memory of this process; 0 where the system doesn't report it."""
    try:
        with open("/proc/self/statm", "rb", buffering=0) as file:
            return int(file.read(64).split()[1]) * _PAGE
    except OSError:
        return 0
