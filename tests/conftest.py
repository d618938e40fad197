"""Tiny tensors gain nothing from threads, and parallel test workers would fight over the cores."""

import os

import torch

if not torch.cuda.is_available():
    # Read when a kernel is declared; only tests that want it take Triton's kernels on a CPU.
    os.environ["TRITON_INTERPRET"] = "1"

torch.set_num_threads(1)

collect_ignore = ["other_clients"]
"""Need environments of their own, in which `make` runs them."""
