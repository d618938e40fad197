"""What replicas take of machines: worked out, and refused, before any of them starts."""

from pathlib import Path
from typing import Literal, NamedTuple

import torch

from server.config import ServerSettings
from server.errors import ConfigError
from server.loading.machine import default_threads, free_memory, pick_device
from server.replicas.cluster import Available

_PROCESS_BYTES = 400 * 2**20
"""Of a replica beside weights and KV cache: Python, torch, Ray."""


class Share(NamedTuple):
    """What each replica gets."""

    device: Literal["cpu", "cuda"]
    num_cpus: int
    """Also its threads, on a CPU."""
    num_gpus: int


def this_machine(settings: ServerSettings) -> Available:
    """What this machine has; no GPUs where the settings leave them alone.

    Raises:
        ConfigError: a GPU is asked for, and there is none.
    """
    device = pick_device(settings.device)
    num_gpus = torch.cuda.device_count() if device.type == "cuda" else 0
    return Available("this machine", default_threads(), num_gpus)


def share_out(settings: ServerSettings, available: Available, num_replicas: int) -> Share:
    """What each of so many replicas gets.

    Raises:
        ConfigError: there are too few GPUs.
    """
    wanted, ranks = settings.num_gpus_per_replica, settings.tensor_parallel_size
    on_cpu = settings.device == "cpu" or not available.num_gpus
    if on_cpu and settings.device != "cuda":
        if wanted:
            reason = f"{available.where} has no GPU that the replicas may use"
            raise ConfigError("num_gpus_per_replica", wanted, reason)
        threads = settings.threads or max(1, available.num_cpus // num_replicas)
        return Share("cpu", threads, 0)
    num_gpus = ranks if wanted is None else wanted
    if num_gpus < ranks:
        reason = f"tensor_parallel_size={ranks} needs as many"
        raise ConfigError("num_gpus_per_replica", num_gpus, reason)
    if num_replicas * num_gpus > available.num_gpus:
        raise ConfigError(
            "replicas",
            num_replicas,
            f"they need {num_replicas * num_gpus} GPUs, {available.where} has {available.num_gpus}",
        )
    return Share("cuda", 1, num_gpus)


def check_memory(settings: ServerSettings, folder: Path, num_replicas: int) -> None:
    """Refuses more replicas than the memory of this machine holds, on a CPU.

    Args:
        folder: The target's.

    Raises:
        ConfigError: names what they need, and what is free.
    """
    weights = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    each = weights + (settings.kv_memory or 0) + _PROCESS_BYTES
    needed, free = num_replicas * each, free_memory(torch.device("cpu"))
    if needed > free:
        raise ConfigError(
            "replicas",
            num_replicas,
            f"they need {_gib(needed)}, {_gib(each)} each, and {_gib(free)} of memory are free",
        )


def _gib(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB"
