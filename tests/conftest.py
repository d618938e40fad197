"""What holds for all tests: where and in how many threads tensors are computed, and patience."""

import inspect
import os

import httpx
import torch

if not torch.cuda.is_available():
    # Read when a kernel is declared; only tests that want it take Triton's kernels on a CPU.
    os.environ["TRITON_INTERPRET"] = "1"

# Tiny tensors gain nothing from threads, and parallel test workers would fight over the cores.
torch.set_num_threads(1)

# httpx waits for 5 seconds by default, which a busy machine takes now and then.
_patience = inspect.signature(httpx.Client).parameters["timeout"].default
_patience.connect = _patience.read = _patience.write = _patience.pool = 60.0

collect_ignore = ["other_clients"]
"""Need environments of their own, in which `make` runs them."""
