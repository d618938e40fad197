"""What a measurement was made with and on."""

import os
import platform
import shlex
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil
import torch
import transformers

from server import __version__
from server.engine.types import SamplingDefaults


@dataclass(frozen=True, slots=True)
class About:
    """The head of the results."""

    target: str
    draft: str
    dtype: str
    """Precision, with the form of the weights where that is another."""
    new_tokens: int
    """Most tokens per answer."""
    sampling: str
    """`greedy`, or what tokens are drawn with."""
    device: str
    processor: str
    num_cpus: int
    num_threads: int
    """Threads that the model runs on."""
    memory_bytes: int
    platform: str
    versions: dict[str, str]
    command: str
    started: str
    """ISO 8601, UTC."""
    resumed: tuple[str, ...] = ()
    """Starts of later runs that went on with this measurement."""


def describe(
    target: str,
    draft: str,
    dtype: str,
    device: torch.device,
    num_threads: int,
    new_tokens: int,
    sampling: SamplingDefaults,
) -> About:
    """Describes this machine and the model.

    Args:
        num_threads: the model's threads; torch's own count is 1 where native kernels run.
    """
    return About(
        target=target,
        draft=draft,
        dtype=dtype,
        new_tokens=new_tokens,
        sampling="greedy" if sampling.temperature == 0.0 else str(sampling),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        processor=_processor(),
        num_cpus=os.cpu_count() or 0,
        num_threads=num_threads,
        memory_bytes=psutil.virtual_memory().total,
        platform=platform.platform(),
        versions={
            "glidecape": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        command=f"glidecape {shlex.join(sys.argv[1:])}",
        started=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _processor() -> str:
    """The processor's name, on Linux from /proc/cpuinfo: `platform` often says only x86_64."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
