"""Loads the native library that fits this CPU."""

import ctypes
import os
from functools import cache
from itertools import takewhile

import torch

from server.kernels.cpu.abi import SIGNATURES, STRUCTURES
from server.kernels.cpu.instruction_sets import (
    VARIABLE,
    InstructionSet,
    KernelsUnavailableError,
    asks_cpu,
    built_libraries,
    pick,
)


def has_avx512_bf16() -> bool:
    """Whether torch multiplies bfloat16 in hardware on this CPU."""
    return torch.cpu._is_avx512_bf16_supported()  # pyright: ignore[reportPrivateUsage]


def kernels_in_use() -> InstructionSet | None:
    """The kernels that GLIDECAPE_CPU_KERNELS names, or the best that run here; None for torch's.

    Raises:
        KernelsUnavailableError: the named kernels were not built, the CPU does not run them, or
            they were built from other sources than these.
    """
    return _pick(os.environ.get(VARIABLE) or "auto")


def native_library() -> ctypes.CDLL | None:
    """The library in use; None where none was built, none runs, or none is wanted. Objects that one
    library made can't be passed to another.

    Raises:
        KernelsUnavailableError: as `kernels_in_use`.
    """
    name = kernels_in_use()
    return None if name is None else _load(name)


@cache
def _pick(choice: str) -> InstructionSet | None:
    libraries = built_libraries()
    name = pick(choice, libraries, asks_cpu(libraries))
    if name is not None:
        _load(name)
    return name


@cache
def _load(name: InstructionSet) -> ctypes.CDLL:
    path = built_libraries()[name]
    library = ctypes.CDLL(str(path))
    if _sizes_in(library) != [ctypes.sizeof(structure) for structure in STRUCTURES]:
        raise KernelsUnavailableError(
            f"{path.name} was built from other sources than these; build it again: "
            "pip install --editable . (or make dev)"
        )
    for function_name, (result, arguments) in SIGNATURES.items():
        function = getattr(library, function_name)
        function.restype, function.argtypes = result, arguments
        if result is not None:
            function.errcheck = _raise_on_failure
    return library


def _sizes_in(library: ctypes.CDLL) -> list[int] | None:
    """Sizes of the library's structures in bytes; None for a library that can't say."""
    try:
        sizes = library.glidecape_structure_sizes
    except AttributeError:
        return None
    sizes.restype = ctypes.POINTER(ctypes.c_int32)
    return list(takewhile(bool, iter(sizes())))


def _raise_on_failure(result: int | bool | None, function: object, arguments: object) -> object:
    if not result:
        raise MemoryError("the native kernels could not get the memory they need")
    return result
