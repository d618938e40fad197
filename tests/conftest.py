"""Tiny tensors gain nothing from threads, and parallel test workers would fight over the cores."""

import torch

torch.set_num_threads(1)

collect_ignore = ["other_clients"]
"""Need environments of their own, in which `make` runs them."""
