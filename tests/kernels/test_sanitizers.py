"""The native kernels under GCC's sanitizers: no stray read, no undefined behaviour, no race."""

import subprocess
from pathlib import Path

import pytest

from server.kernels.cpu.instruction_sets import InstructionSet
from tests.kernels.compiled import COMPILED_HERE, HAS_COMPILER, SOURCES, compile_native
from tests.kernels.native_models import INSTRUCTION_SETS_HERE

HERE = Path(__file__).parent
FLAGS = ["-O0", "-g1", "-Wno-psabi"]
"""Not optimised: every access stays and is checked, and compiling takes a quarter of the time."""
RACES = [("thread", [], name) for name in INSTRUCTION_SETS_HERE[:1]]
"""The threads are the same for all."""

pytestmark = pytest.mark.skipif(not HAS_COMPILER, reason="no g++")


def require_sanitizer(sanitizer: list[str], folder: Path) -> None:
    empty, program = folder / "empty.cpp", folder / "empty"
    empty.write_text("int main() {}\n")
    try:
        compile_native(program, "portable", sanitizer, [empty])
        subprocess.run([program], check=True, timeout=300)
    except subprocess.CalledProcessError:
        pytest.skip(f"{sanitizer[0]} does not work on this machine")


@pytest.mark.parametrize(
    ("kinds", "arguments", "kernels"),
    [*(("address,undefined", ["fork"], name) for name in COMPILED_HERE), *RACES],
    ids=str,
)
def test_sanitizer_finds_nothing(
    kinds: str, arguments: list[str], kernels: InstructionSet, tmp_path: Path
) -> None:
    sanitizer = [f"-fsanitize={kinds}", "-fno-sanitize-recover=all"]
    require_sanitizer(sanitizer, tmp_path)
    program, whole = tmp_path / "native_steps", tmp_path / "whole.cpp"
    # As one file: what several of them include is compiled once, in a fifth less time.
    sources = [HERE / "native_steps.cpp", *sorted(SOURCES.glob("*.cpp"))]
    whole.write_text("".join(f'#include "{source}"\n' for source in sources))
    compile_native(program, kernels, FLAGS + sanitizer, [whole])
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


@pytest.mark.parametrize("kernels", COMPILED_HERE)
def test_operations(kernels: InstructionSet, tmp_path: Path) -> None:
    """Optimised as in the package, and with sanitizers."""
    program = tmp_path / "lanes_check"
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    for flags in (["-O3"], sanitizers):
        compile_native(program, kernels, FLAGS + flags, [HERE / "lanes_check.cpp"])
        done = subprocess.run([program], capture_output=True, text=True, timeout=300)
        assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
