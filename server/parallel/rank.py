"""A worker process's side: its place among the ranks, and how it starts and ends."""

import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import parent_process
from multiprocessing.connection import Connection

import torch
from torch import distributed

from server.models.shard import Shard

logger = logging.getLogger(__name__)

_TIMEOUT = timedelta(minutes=10)
"""How long a rank waits for another in a collective; one that has ended is noticed at once."""


@dataclass(frozen=True, slots=True)
class Rank:
    """A worker's place among the ranks.

    Args:
        rendezvous: file through which the ranks find each other.
        pipe: pipe to rank 0.
    """

    rank: int
    size: int
    rendezvous: str
    device: torch.device
    pipe: Connection

    def join(self) -> Shard:
        """Joins the process group, as soon as rank 0 does."""
        self.tell({})
        return join_group(self.rank, self.size, self.rendezvous, self.device)

    def tell(self, message: Mapping[str, object]) -> None:
        """Sends a message to rank 0, which waits for it (`Workers.hear`)."""
        self.pipe.send_bytes(json.dumps(message).encode())

    def hear(self) -> dict[str, int] | None:
        """Waits for a message from rank 0 (`Workers.tell`); None if rank 0 has ended or closed."""
        try:
            return json.loads(self.pipe.recv_bytes())
        except (EOFError, ConnectionResetError):
            return None


def join_group(rank: int, size: int, rendezvous: str, device: torch.device) -> Shard:
    """Makes torch.distributed's default group: nccl on GPUs, gloo on the CPU, over loopback."""
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
    os.environ.setdefault("NCCL_SOCKET_IFNAME", loopback)
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    distributed.init_process_group(
        "nccl" if on_gpu else "gloo",
        init_method=f"file://{rendezvous}",
        rank=rank,
        world_size=size,
        timeout=_TIMEOUT,
        device_id=device if on_gpu else None,
    )
    return Shard(rank, size)


def run_rank(rank: Rank, work: Callable[[Rank], None]) -> None:
    """Runs a worker process from start to end. Its error is sent to rank 0, which reports it."""
    # A terminal or supervisor sends signals to all processes of a group. They are for rank 0, which
    # finishes its answers first and then ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        work(rank)
    except BaseException as error:
        logger.debug("rank %d ends", rank.rank, exc_info=True)
        _tell_error(rank, error)
        os._exit(1)  # the group's destructor would wait for the other ranks
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _end_with_parent() -> None:
    """Ends this process with rank 0: a collective would hold it for minutes otherwise."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _tell_error(rank: Rank, error: BaseException) -> None:
    try:
        rank.tell({"error": f"{type(error).__name__}: {error}"})
    except OSError:  # rank 0 has ended first
        logger.debug("rank 0 does not hear rank %d", rank.rank)
