"""The native kernels under GCC's sanitizers: no stray read, no undefined behaviour, no race."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
SOURCES = HERE.parents[1] / "server/kernels/cpu"
FLAGS = ["-std=c++17", "-O1", "-g", "-pthread", "-march=x86-64-v4", "-mavx512bf16", "-mavx512vnni"]

pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="no g++"),
    pytest.mark.skipif(
        not torch.cpu._is_avx512_bf16_supported(),  # pyright: ignore[reportPrivateUsage]
        reason="this CPU has no AVX512-BF16",
    ),
]


def compile_program(program: Path, sanitizer: list[str], sources: list[Path]) -> None:
    command = ["g++", *FLAGS, *sanitizer, f"-I{SOURCES}", *map(str, sources), "-o", str(program)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)


def require_sanitizer(sanitizer: list[str], folder: Path) -> None:
    empty, program = folder / "empty.cpp", folder / "empty"
    empty.write_text("int main() {}\n")
    try:
        compile_program(program, sanitizer, [empty])
        subprocess.run([program], check=True, timeout=20)
    except subprocess.CalledProcessError:
        pytest.skip(f"{sanitizer[0]} does not work on this machine")


@pytest.mark.parametrize(
    ("kinds", "arguments"),
    [("address,undefined", ["fork"]), ("thread", [])],
    ids=("memory", "race"),
)
def test_sanitizer_finds_nothing(kinds: str, arguments: list[str], tmp_path: Path) -> None:
    sanitizer = [f"-fsanitize={kinds}", "-fno-sanitize-recover=all"]
    require_sanitizer(sanitizer, tmp_path)
    program = tmp_path / "native_steps"
    sources = [HERE / "native_steps.cpp", *sorted(SOURCES.glob("*.cpp"))]
    compile_program(program, sanitizer, sources)
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
