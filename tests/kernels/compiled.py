"""The native kernels' sources compiled by tests, for any instruction set that this CPU runs.

AVX-VNNI is vpdpbusd on 256 bits in AVX2's encoding (VEX). Many CPUs that lack it, those of servers
above all, have the instruction in AVX-512's encoding (EVEX). For these the compiler's assembly for
AVX-VNNI is assembled in the other encoding: the same instructions on the same registers."""

import shutil
import subprocess
from pathlib import Path

from server.kernels.cpu.instruction_sets import InstructionSet, asks_cpu, built_libraries
from tests.kernels.native_models import INSTRUCTION_SETS_HERE

SOURCES = Path(__file__).parents[2] / "server/kernels/cpu"
FLAGS: dict[InstructionSet, list[str]] = {
    "avx512": ["-march=x86-64-v4", "-mavx512bf16", "-mavx512vnni"],
    "avxvnni": ["-mavx2", "-mfma", "-mf16c", "-mavxvnni"],
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "portable": [],
}
"""As in setup.py."""
HAS_COMPILER = shutil.which("g++") is not None
VEX, EVEX = "{vex} vpdpbusd", "{evex} vpdpbusd"


def _is_avxvnni_reencoded() -> bool:
    built = built_libraries()
    cpu_runs = asks_cpu(built)
    is_wanted = "avxvnni" in built and not cpu_runs("avxvnni")
    return is_wanted and HAS_COMPILER and cpu_runs("avx512")


REENCODED: list[InstructionSet] = ["avxvnni"] if _is_avxvnni_reencoded() else []
"""That run here in another encoding only."""
COMPILED_HERE: list[InstructionSet] = [*INSTRUCTION_SETS_HERE, *REENCODED]


def compile_native(
    target: Path, kernels: InstructionSet, flags: list[str], sources: list[Path]
) -> None:
    """Builds a program, or with `-shared` a library.

    Raises:
        subprocess.CalledProcessError: the compiler does not take this.
    """
    flags = ["-std=c++17", "-pthread", "-ffp-contract=off", f"-I{SOURCES}", *flags]
    if kernels in REENCODED:
        _run([*flags, *FLAGS[kernels], "-S"], sources, cwd=target.parent)
        sources = [target.parent / f"{source.stem}.s" for source in sources]
        assembly = "".join(map(_reencode, sources))
        assert EVEX in assembly and VEX not in assembly
    else:
        flags += FLAGS[kernels]
    _run([*flags, "-o", str(target)], sources, cwd=target.parent)


def _reencode(file: Path) -> str:
    assembly = file.read_text().replace(VEX, EVEX)
    file.write_text(assembly)
    return assembly


def _run(flags: list[str], sources: list[Path], cwd: Path) -> None:
    command = ["g++", *flags, *map(str, sources)]
    subprocess.run(command, check=True, capture_output=True, timeout=600, cwd=cwd)
