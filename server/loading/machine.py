"""What this machine offers: device, precision, free memory. Asked once, at start."""

import os
from functools import cache
from pathlib import Path
from typing import Literal

import psutil
import torch

from server.errors import ConfigError
from server.kernels.cpu.instruction_sets import VARIABLE, InstructionSet, KernelsUnavailableError
from server.kernels.cpu.library import has_avx512_bf16, kernels_in_use
from server.kernels.dispatch import gpu_kernels, has_native_products
from server.models.layers import Placement
from server.setting_types import DType

_CGROUP = Path("/sys/fs/cgroup")


def pick_device(wanted: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Raises ConfigError where a GPU is asked for and there is none."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device", wanted, "this machine has no usable GPU")
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(wanted)


@cache
def default_threads() -> int:
    """torch's own choice, before anybody changed it: the cores, within the limit of the cgroup.
    More threads than that would be stopped together, in the middle of a step."""
    threads = torch.get_num_threads()
    try:
        quota, period = (_CGROUP / "cpu.max").read_text().split()
        return max(1, min(threads, int(quota) // int(period)))
    except (OSError, ValueError):  # no cgroup, or its limit is the word "max"
        return threads


def cpu_kernels() -> InstructionSet | None:
    """The native kernels that serve on the CPU; None where torch does.

    Raises:
        ConfigError: others are asked for than there are, or than the CPU runs; or they were built
            from other sources than these.
    """
    try:
        return kernels_in_use()
    except KernelsUnavailableError as error:
        raise ConfigError(VARIABLE, os.environ.get(VARIABLE, "auto"), str(error)) from None


def describe_kernels(placement: Placement, is_fused: bool) -> str:
    """What computes a model's layers, for people.

    Args:
        is_fused: whether the native kernels took the whole model.
    """
    kernels, device = cpu_kernels(), placement.device
    if device.type != "cpu":
        return f"{gpu_kernels()} kernels on {device}"
    if is_fused:
        return f"native CPU kernels: {kernels}"
    if kernels is None:
        return "torch kernels: no native ones were built, run on this CPU, or are wanted"
    if has_native_products(device, placement.dtype):
        return f"native CPU products and attention: {kernels}"
    return f"torch kernels: the native ones ({kernels}) do not take this precision"


def describe_foreign_kernels(placement: Placement, in_torch: str | None, all_products: bool) -> str:
    """What computes the layers of a model of other code than ours, for people.

    Args:
        in_torch: what of its attention Triton's kernels don't know.
        all_products: whether native kernels multiply all its weights, where they multiply any.
    """
    kernels, device = cpu_kernels(), placement.device
    rest = f"; attention in torch: {in_torch}" if in_torch else ""
    if device.type != "cpu":
        return f"torch's products and {gpu_kernels()} attention on {device}{rest}"
    if has_native_products(device, placement.dtype):
        torchs = "" if all_products else "; torch multiplies some weights"
        return f"native CPU products and attention: {kernels}{torchs}"
    return f"torch kernels{rest}"


def pick_dtype(wanted: DType, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 where it is computed natively: emulated, it is slower than float32.

    Raises:
        ConfigError: the native kernels asked for can't serve.
    """
    kernels = cpu_kernels()  # asked in any case, so that a wrong wish fails at start
    if wanted != "auto":
        return {
            "float32": torch.float32,
            "bfloat16": torch.bfloat16,
            "float16": torch.float16,
        }[wanted]
    native = device.type == "cuda" or kernels is not None or has_avx512_bf16()
    return torch.bfloat16 if native else torch.float32


def free_memory(device: torch.device) -> int:
    """Bytes this process may still take on the device; on the CPU, within its cgroup's limit."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    available = psutil.virtual_memory().available
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
    except (OSError, ValueError):  # no cgroup, or its limit is the word "max"
        return available
    return min(available, max(limit - used, 0))


def total_memory(device: torch.device) -> int:
    """Bytes of a GPU."""
    return torch.cuda.mem_get_info(device)[1]
