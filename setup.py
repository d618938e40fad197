"""Builds the native CPU kernels with the package; everything else is in pyproject.toml.

The same sources become one library per instruction set, and the best that a CPU runs is chosen when
it is loaded (server/kernels/cpu/instruction_sets.py): a wheel that was built on one machine runs on
others of its kind. Optional: what the compiler can't build is left out, and without a compiler the
torch reference serves.
"""

import platform
from glob import glob

from setuptools import Extension, setup

SOURCES = "server/kernels/cpu"
X86 = {
    "avx512": ["-march=x86-64-v4", "-mavx512vnni", "-mavx512bf16"],
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
}
IS_X86 = platform.machine().lower() in {"x86_64", "amd64"}
FLAGS = {**(X86 if IS_X86 else {}), "portable": []}

setup(
    ext_modules=[
        Extension(
            f"server.kernels.cpu._native_{name}",
            sources=sorted(glob(f"{SOURCES}/*.cpp")),
            depends=sorted(glob(f"{SOURCES}/*.h")),
            language="c++",
            extra_compile_args=[
                "-std=c++17",
                "-O3",
                *flags,
                # A row's result may not depend on where the compiler sees a multiply-add.
                "-ffp-contract=off",
                # Two of the libraries in one process must not share their functions' statics.
                "-fvisibility=hidden",
                # GCC 12 warns about its own intrinsics' undefined registers.
                "-Wno-uninitialized",
                "-Wno-maybe-uninitialized",
            ],
            extra_link_args=["-pthread"],
            optional=True,
        )
        for name, flags in FLAGS.items()
    ]
)
