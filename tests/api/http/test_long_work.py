"""Long work: one piece after the other, also where the client of one has left."""

import asyncio
import threading

import pytest

from server.api.http.long_work import LongWork


async def test_short_work_is_done_at_once() -> None:
    assert await LongWork().run(False, threading.get_ident) == threading.get_ident()


async def test_who_leaves_does_not_let_the_next_one_in_before_its_thread_ends() -> None:
    work, may_end, started = LongWork(), threading.Event(), threading.Event()

    def first() -> None:
        started.set()
        may_end.wait(60)

    leaves = asyncio.create_task(work.run(True, first))
    await asyncio.to_thread(started.wait, 60)
    leaves.cancel()
    await asyncio.wait([leaves])
    second = asyncio.create_task(work.run(True, lambda: "second"))
    await asyncio.sleep(0.05)
    assert not second.done()
    may_end.set()
    assert await second == "second"


async def test_what_fails_is_told_and_ends_its_turn() -> None:
    work = LongWork()
    with pytest.raises(ZeroDivisionError):
        await work.run(True, lambda: 1 // 0)
    assert await work.run(True, lambda: 3) == 3
