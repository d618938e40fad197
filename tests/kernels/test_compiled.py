"""What setup.py makes of the native kernels for AVX-VNNI, and with a compiler that lacks it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from server.kernels.cpu.instruction_sets import INSTRUCTION_SETS, built_libraries
from tests.kernels.compiled import COMPILED_HERE

ROOT = Path(__file__).parents[2]
OLD_COMPILER = """#!/bin/sh
for word; do
  if [ "$word" = -mavxvnni ]; then echo "unrecognized option $word" >&2; exit 1; fi
  if [ "$before" = -o ]; then : > "$word"; fi
  before=$word
done
"""
"""A double: its objects and libraries are empty files."""


@pytest.mark.skipif("avxvnni" not in built_libraries(), reason="no library for AVX-VNNI was built")
@pytest.mark.skipif(shutil.which("objdump") is None, reason="no objdump")
def test_avxvnni_multiplies_bytes_in_the_encoding_of_avx2() -> None:
    """By vpdpbusd alone, weights of 8 bits too, and with nothing of AVX-512: no longer registers,
    no more of them, no masks."""
    command = ["objdump", "--disassemble", "--no-show-raw-insn", str(built_libraries()["avxvnni"])]
    code = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    products = [line for line in code.splitlines() if "vpdpbusd" in line]
    assert products and all("{vex}" in line for line in products)
    of_others = ("vpmaddubsw", "vpmaddwd", "%zmm", "%k1", *(f"%ymm{i}" for i in range(16, 32)))
    assert [name for name in of_others if name in code] == []


@pytest.mark.skipif(
    "avxvnni" not in COMPILED_HERE,
    reason="kernels for AVX-VNNI were not run: this CPU has vpdpbusd in no encoding, or there is "
    "no compiler that knows it; what they compile to is all that was checked",
)
def test_avxvnni_is_run() -> None:
    """By test_sanitizers.py and test_other_instruction_sets.py; where it is not, this says so."""
    assert COMPILED_HERE.index("avxvnni") > 0, "the tests of other instruction sets take the rest"


@pytest.mark.skipif("avxvnni" not in built_libraries(), reason="the compiler here is an old one")
def test_an_old_compiler_leaves_a_library_out_and_says_so_once(tmp_path: Path) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_text(OLD_COMPILER)
    compiler.chmod(0o755)
    tools = dict.fromkeys(("CC", "CXX", "LDSHARED", "LDCXXSHARED"), str(compiler))
    folders = [f"--build-{kind}={tmp_path / kind}" for kind in ("lib", "temp")]
    done = subprocess.run(
        [sys.executable, "setup.py", "build_ext", *folders],
        cwd=ROOT, env=os.environ | tools, check=True, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    made = built_libraries(tmp_path / "lib/server/kernels/cpu")
    assert list(made) == [name for name in INSTRUCTION_SETS if name != "avxvnni"]
    assert done.stderr.count("unrecognized option -mavxvnni") == 1
    assert (done.stdout + done.stderr).count("_native_avxvnni is left out: ") == 1
