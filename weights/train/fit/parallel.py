"""A step's rows shared out over the cores.

A draft is small: torch shares out its products to two cores at 1.4 times the rate of one, whole
forwards with half of the rows each run at 1.9 times (`docs/log.md`).
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import torch

from server.loading.machine import default_threads

T = TypeVar("T")
R = TypeVar("R")


class Workers:
    """Threads that run torch on one core each, as many as there are cores. The calling thread gets
    one too: torch's own would spin on the workers' cores after each operation. On a GPU, or with
    one core, the caller's thread does the work."""

    def __init__(self, device: torch.device) -> None:
        self.count = default_threads() if device.type == "cpu" else 1
        self._pool: ThreadPoolExecutor | None = None
        if self.count > 1:
            one_thread = partial(torch.set_num_threads, 1)
            self._pool = ThreadPoolExecutor(self.count, "train", initializer=one_thread)
            one_thread()

    def map(self, do: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """The results, in the items' order."""
        return list(map(do, items) if self._pool is None else self._pool.map(do, items))
