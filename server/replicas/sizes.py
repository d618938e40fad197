"""What replicas take of machines: worked out, and refused, before any of them starts."""

from pathlib import Path
from typing import Literal, NamedTuple

import torch

from server.config import ServerSettings
from server.errors import ConfigError
from server.loading.machine import default_threads, free_memory, pick_device
from server.replicas.cluster import Available, Machine

THIS_MACHINE = "this machine"
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
    return Available(THIS_MACHINE, (Machine(default_threads(), num_gpus),))


def share_out(settings: ServerSettings, available: Available, fewest: int, most: int) -> Share:
    """What each replica gets, so that there is room for `most`, on machines of any size.

    Args:
        fewest: That there has to be room for.

    Raises:
        ConfigError: there is no room for them.
    """
    wanted, ranks = settings.num_gpus_per_replica, settings.tensor_parallel_size
    on_cpu = settings.device == "cpu" or not available.num_gpus
    if on_cpu and settings.device != "cuda":
        if wanted:
            reason = f"{available.where} has no GPU that the replicas may use"
            raise ConfigError("num_gpus_per_replica", wanted, reason)
        share = Share("cpu", settings.threads or _most_threads(available, most), 0)
        if available.where != THIS_MACHINE:  # where Ray is told of as many as they need
            _check_room(share, available, fewest)
        return share
    num_gpus = ranks if wanted is None else wanted
    if num_gpus < ranks:
        reason = f"tensor_parallel_size={ranks} needs as many"
        raise ConfigError("num_gpus_per_replica", num_gpus, reason)
    if fewest * num_gpus > available.num_gpus:
        reason = f"they need {fewest * num_gpus} GPUs, {available.where} has {available.num_gpus}"
        raise ConfigError("replicas", fewest, reason)
    share = Share("cuda", 1, num_gpus)
    _check_room(share, available, fewest)
    return share


def _most_threads(available: Available, num_replicas: int) -> int:
    """The most cores that each of so many replicas can have; at least one."""
    largest = max((machine.num_cpus for machine in available.machines), default=1)
    sizes = range(largest, 0, -1)
    return next((n for n in sizes if available.num_places(n, 0) >= num_replicas), 1)


def _check_room(share: Share, available: Available, num_replicas: int) -> None:
    places = available.num_places(share.num_cpus, share.num_gpus)
    if places < num_replicas:
        size = f"{share.num_cpus} CPUs and {share.num_gpus} GPUs"
        reason = (
            f"each needs {size} of one machine, for which {available.where} has {places} places"
        )
        raise ConfigError("replicas", num_replicas, reason)


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
