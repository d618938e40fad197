"""Rank 0's side: starts the workers, makes calls with them, notices their death, ends them."""

import atexit
import json
import multiprocessing
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import distributed
from torch.distributed import distributed_c10d

from server.errors import WorkerDiedError
from server.models.shard import Shard
from server.parallel.calls import Call, send
from server.parallel.rank import Rank, join_group, run_rank

T = TypeVar("T")

_GRACE = 5.0
"""Seconds to wait for a worker's death after a failed collective, and for a worker to end before it
is killed."""


class Workers:
    """The workers of ranks 1 and up, on this machine.

    Args:
        size: number of ranks, this process included.
        device: rank 0's device; on GPUs, rank r has the device of index r.
        work: what a worker runs; it must be importable by name.
    """

    def __init__(self, size: int, device: torch.device, work: Callable[[Rank], None]) -> None:
        self.size, self.device = size, device
        self._folder = Path(tempfile.mkdtemp(prefix="glidecape-"))
        self._pipes, self._processes = list[Connection](), list[SpawnProcess]()
        self._death: WorkerDiedError | None = None
        self._closing = False
        self._lock = threading.Lock()
        atexit.register(self.close)
        context = multiprocessing.get_context("spawn")
        for index in range(1, size):
            own, theirs = context.Pipe()
            place = torch.device("cuda", index) if device.type == "cuda" else device
            rank = Rank(index, size, self._rendezvous, place, theirs)
            process = context.Process(target=run_rank, args=(rank, work), name=f"rank {index}")
            process.start()
            theirs.close()
            self._pipes.append(own)
            self._processes.append(process)

    @property
    def _rendezvous(self) -> str:
        return str(self._folder / "rendezvous")

    @property
    def process_ids(self) -> list[int]:
        """Process ids of the workers, rank 1's first."""
        return [process.pid for process in self._processes if process.pid is not None]

    def join(self) -> Shard:
        """Waits for the workers and makes the process group with them; returns rank 0's shard.

        Raises:
            WorkerDiedError: a worker has ended.
        """
        self.hear()
        device = torch.device("cuda", 0) if self.device.type == "cuda" else self.device
        return self.guard(lambda: join_group(0, self.size, self._rendezvous, device))

    def hear(self) -> list[dict[str, Any]]:
        """Waits for a message (`Rank.tell`) from each worker.

        Raises:
            WorkerDiedError: a worker has ended without one.
        """
        messages = list[dict[str, Any]]()
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            while not pipe.poll() and process.is_alive():
                wait([pipe, process.sentinel])
            try:
                message = json.loads(pipe.recv_bytes())
            except (EOFError, OSError):
                message = {"error": None}
            if "error" in message:
                raise self._died(process, message["error"])
            messages.append(message)
        return messages

    def tell(self, message: Mapping[str, int]) -> None:
        """Sends a message to every worker (`Rank.hear`)."""
        body = json.dumps(message).encode()

        def send_all() -> None:
            for pipe in self._pipes:
                pipe.send_bytes(body)

        self.guard(send_all)

    def make(self, call: Call, here: Callable[[], T]) -> T:
        """Sends a call to the workers and makes it here too.

        Raises:
            WorkerDiedError: a worker has ended; nothing can be computed any more.
        """

        def both() -> T:
            send(call, self._pipes)
            return here()

        return self.guard(both)

    def guard(self, run: Callable[[], T]) -> T:
        """Runs something that needs the workers.

        Raises:
            WorkerDiedError: it failed because a worker has ended.
        """
        try:
            return run()
        except (RuntimeError, OSError) as error:
            death = self._find_death(_GRACE)
            if death is None:
                raise
            raise death from error

    def watch(self, on_death: Callable[[WorkerDiedError], None]) -> None:
        """Calls `on_death`, in a thread of its own, when a worker ends before `close`."""
        thread = threading.Thread(target=self._watch, args=(on_death,), daemon=True)
        thread.start()

    def close(self) -> None:
        """Ends the workers; returns when they have ended. To be called between steps."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
        atexit.unregister(self.close)
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(_GRACE)
            if process.is_alive():
                process.kill()
                process.join()
        if distributed.is_initialized():
            distributed.destroy_process_group()
        shutil.rmtree(self._folder, ignore_errors=True)

    def kill(self) -> None:
        """Ends the workers at once, whatever they and this process are doing. They can't be used
        any more."""
        with self._lock:
            self._closing = True
        for process in self._processes:
            process.kill()

    def _find_death(self, seconds: float | None) -> WorkerDiedError | None:
        """The first dead worker, after waiting for one."""
        sentinels = {process.sentinel: index for index, process in enumerate(self._processes)}
        ended = wait(list(sentinels), timeout=seconds)
        if not ended:
            return None
        # Where several have ended, the one that failed first has sent its error.
        dead = sorted(index for sentinel, index in sentinels.items() if sentinel in ended)
        with self._lock:
            if self._death is None and not self._closing:
                told = [(self._processes[index], self._last_words(index)) for index in dead]
                process, words = next((pair for pair in told if pair[1]), told[0])
                self._death = self._died(process, words)
            return self._death

    def _last_words(self, index: int) -> str | None:
        """The error that a worker sent before it ended."""
        pipe = self._pipes[index]
        try:
            return json.loads(pipe.recv_bytes()).get("error") if pipe.poll() else None
        except (EOFError, OSError):
            return None

    def _died(self, process: SpawnProcess, words: str | None) -> WorkerDiedError:
        process.join(_GRACE)
        code = process.exitcode
        how = f"was ended by signal {-code}" if code is not None and code < 0 else None
        reason = words or how or f"ended with exit code {code}"
        name = f"{process.name} of {self.size} (process {process.pid})"
        return WorkerDiedError(f"tensor parallelism: {name}: {reason}")

    def _watch(self, on_death: Callable[[WorkerDiedError], None]) -> None:
        death = self._find_death(None)
        if death is None:
            return
        on_death(death)
        if self.device.type == "cuda":
            # Unlike gloo, nccl does not notice: a step would wait for the dead rank.
            distributed_c10d._abort_process_group()  # pyright: ignore[reportPrivateUsage]
