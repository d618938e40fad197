"""Chooses one of the native libraries. They are the same sources, compiled once for each
instruction set; the portable one says which of them the CPU runs (`cpu.cpp`)."""

import ctypes
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, get_args

InstructionSet = Literal["avx512", "avxvnni", "avx2", "portable"]
"""avx512 needs VNNI too; avx2 needs FMA and F16C, and so does avxvnni, which is AVX2 with the VNNI
of CPUs without AVX-512."""
INSTRUCTION_SETS: tuple[InstructionSet, ...] = get_args(InstructionSet)
"""Best first."""
VARIABLE = "GLIDECAPE_CPU_KERNELS"
"""The environment variable that chooses an instruction set; auto, the best that was built and that
the CPU runs; or none, which leaves everything to torch."""


class KernelsUnavailableError(Exception):
    """The kernels asked for do not exist, were not built, or the CPU does not run them."""


def built_libraries(folder: Path = Path(__file__).parent) -> Mapping[InstructionSet, Path]:
    """The files of the libraries that were built."""
    found = dict[InstructionSet, Path]()
    for name in INSTRUCTION_SETS:
        for file in sorted(folder.glob(f"_native_{name}*.so"))[:1]:
            found[name] = file
    return found


def asks_cpu(libraries: Mapping[InstructionSet, Path]) -> Callable[[InstructionSet], bool]:
    """A function that says whether this CPU runs a library. Without the portable library, which
    answers this, it is False for all."""
    if "portable" not in libraries:
        return lambda name: False
    runs = ctypes.CDLL(str(libraries["portable"])).glidecape_cpu_runs
    runs.restype, runs.argtypes = ctypes.c_bool, (ctypes.c_char_p,)
    return lambda name: bool(runs(name.encode()))


def pick(
    choice: str,
    built: Mapping[InstructionSet, Path],
    cpu_runs: Callable[[InstructionSet], bool],
) -> InstructionSet | None:
    """The instruction set to use; None for torch.

    Args:
        choice: an instruction set, auto or none.

    Raises:
        KernelsUnavailableError: a named set was not built, or the CPU does not run it.
    """
    if choice == "none":
        return None
    if choice == "auto":
        return next((name for name in INSTRUCTION_SETS if name in built and cpu_runs(name)), None)
    if choice not in INSTRUCTION_SETS:
        raise KernelsUnavailableError(f"expected auto, {', '.join(INSTRUCTION_SETS)} or none")
    if choice not in built:
        there = ", ".join(built) or "none"
        raise KernelsUnavailableError(f"these kernels were not built; there are: {there}")
    if not cpu_runs(choice):
        raise KernelsUnavailableError("this CPU lacks instructions that these kernels need")
    return choice
