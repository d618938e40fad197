"""Work of a request that takes longer than a token of another one may wait."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class LongWork:
    """Runs it in threads, one piece after the other: two at once would share Python's lock with
    the engine and with all streams, and a client could have as many as it sends requests. For one
    event loop."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def run(self, is_long: bool, work: Callable[[], T]) -> T:
        """Does work, in a thread if it is long.

        Args:
            is_long: Whether a thread is needed; other work is done at once.
        """
        if not is_long:
            return work()
        await self._turn.acquire()
        task = asyncio.ensure_future(asyncio.to_thread(work))
        task.add_done_callback(self._end)
        # A client that leaves does not end the thread: the turn is over when the thread is.
        return await asyncio.shield(task)

    def _end(self, task: "asyncio.Task[Any]") -> None:
        self._turn.release()
        if not task.cancelled():
            task.exception()  # marks it as seen: its client may have left
