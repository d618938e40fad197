"""Work of a request that takes longer than a token of another one may wait."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class LongWork:
    """Runs it in threads, one piece after the other: two at once would share Python's lock with
    the engine and with all streams, and a client could have as many as it sends requests. For one
    event loop."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def run(self, is_long: bool, work: Callable[[], T]) -> T:
        """
        Args:
            is_long: Else it is done at once.
        """
        if not is_long:
            return work()
        async with self._turn:
            return await asyncio.to_thread(work)
