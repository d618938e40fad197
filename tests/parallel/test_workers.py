"""Workers that end, in every way, are noticed and told; none is left over."""

import os
import queue
import signal
import time
from collections.abc import Callable

import psutil
import pytest
import torch

from server.errors import WorkerDiedError
from server.parallel.calls import Call, receive
from server.parallel.rank import Rank
from server.parallel.workers import Workers
from tests.engine.tiny import CPU


def gone(process_id: int, seconds: float = 60) -> bool:
    """Whether it ends in this time; one that nobody has waited for has ended, too."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if psutil.Process(process_id).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


def listen(rank: Rank) -> None:
    rank.join()
    while receive(rank.pipe, rank.device) is not None:
        pass


def say_no(rank: Rank) -> None:
    raise ValueError(f"rank {rank.rank} says no")


def leave(rank: Rank) -> None:
    os._exit(7)


def echo(rank: Rank) -> None:
    """Tells sum and shape of the first and of the last tensor of each call."""
    rank.join()
    while (call := receive(rank.pipe, rank.device)) is not None:
        shapes = [None if t is None else [str(t.dtype), *t.shape] for t in call.tensors]
        sums = [None if t is None else float(t.double().sum()) for t in call.tensors]
        rank.tell({"shapes": shapes, "sums": sums, "numbers": call.numbers})


@pytest.mark.parametrize(
    ("work", "said"),
    [(say_no, "rank 1 of 2 .*ValueError: rank 1 says no"), (leave, "ended with exit code 7")],
)
def test_a_worker_that_fails_before_it_joins(work: Callable[[Rank], None], said: str) -> None:
    workers = Workers(2, CPU, work)
    (process_id,) = workers.process_ids
    try:
        with pytest.raises(WorkerDiedError, match=said):
            workers.join()
    finally:
        workers.close()
    assert gone(process_id)


def test_a_killed_worker_is_told_while_idle_and_in_a_call() -> None:
    workers = Workers(2, CPU, listen)
    told: queue.Queue[WorkerDiedError] = queue.Queue()
    try:
        shard = workers.join()
        workers.watch(told.put)
        (process_id,) = workers.process_ids
        os.kill(process_id, signal.SIGKILL)
        idle = told.get(timeout=60)
        assert f"rank 1 of 2 (process {process_id}): was ended by signal 9" in str(idle)
        ones = torch.ones(4)
        with pytest.raises(WorkerDiedError, match="signal 9"):
            workers.make(Call("logits", (ones,)), lambda: shard.sum(ones))
    finally:
        workers.close()


def test_signals_for_the_whole_group_are_left_to_rank_0() -> None:
    workers = Workers(2, CPU, listen)
    try:
        workers.join()
        (process_id,) = workers.process_ids
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(process_id, number)
        workers.make(Call("logits", (torch.ones(2),)), lambda: None)
        assert psutil.Process(process_id).is_running()
    finally:
        workers.close()
        workers.close()  # nothing more to do
    assert gone(process_id)


def test_calls_arrive_as_they_were_made() -> None:
    workers = Workers(2, CPU, echo)
    try:
        workers.join()
        tensors = (
            torch.arange(5),
            None,
            torch.tensor([[True, False, True]]),
            torch.full((3, 7), 0.5, dtype=torch.bfloat16),
            torch.arange(12.0).view(3, 4).t(),  # not contiguous
            torch.empty(0, 4),
        )
        workers.make(Call("glide", tensors, {"delay": (3,), "context_lens": (1, 2)}), lambda: None)
        (heard,) = workers.hear()
        assert heard["shapes"] == [
            ["torch.int64", 5],
            None,
            ["torch.bool", 1, 3],
            ["torch.bfloat16", 3, 7],
            ["torch.float32", 4, 3],
            ["torch.float32", 0, 4],
        ]
        assert heard["sums"] == [10.0, None, 2.0, 10.5, 66.0, 0.0]
        assert heard["numbers"] == {"delay": [3], "context_lens": [1, 2]}
        workers.make(Call("copy_kv", (), {"sources": [4], "targets": [2]}), lambda: None)
        (heard,) = workers.hear()
        assert heard == {"shapes": [], "sums": [], "numbers": {"sources": [4], "targets": [2]}}
    finally:
        workers.close()


def test_an_error_of_rank_0s_own_stays_its_own() -> None:
    workers = Workers(2, CPU, listen)

    def fail() -> None:
        raise IndexError("a mistake here")

    try:
        workers.join()
        with pytest.raises(IndexError, match="a mistake here"):
            workers.make(Call("logits", (torch.ones(2),)), fail)
    finally:
        workers.close()
