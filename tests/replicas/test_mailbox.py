"""What a replica collects for a front."""

import asyncio

from server.engine.outputs import RequestOutput
from server.engine.types import RequestId
from server.errors import EngineDeadError
from server.replicas.calls import Batch, PackedError
from server.replicas.mailbox import Mailbox


def output(number: int) -> RequestOutput:
    return RequestOutput(RequestId(f"r{number}"), (number,), None, None, None, 1, 1, 0)


async def test_what_comes_together_is_one_batch() -> None:
    mailbox = Mailbox()
    batches = mailbox.batches(linger=60.0)
    for number in range(3):
        mailbox.put(output(number))
    mailbox.put_error(RequestId("r9"), PackedError.of(EngineDeadError("dead")))
    first = await anext(batches)
    assert [each.token_ids for each in first.outputs] == [(0,), (1,), (2,)]
    assert [request_id for request_id, _ in first.errors] == ["r9"]
    later = asyncio.ensure_future(anext(batches))
    await asyncio.sleep(0)
    mailbox.put(output(7))
    assert await later == Batch((output(7),))
    await batches.aclose()


async def test_a_stream_ends_when_there_has_been_no_request_for_a_while() -> None:
    mailbox = Mailbox()
    mailbox.num_open = 1
    batches = mailbox.batches(linger=0.01)
    waiting = asyncio.ensure_future(anext(batches, None))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    mailbox.num_open = 0
    assert await waiting is None
