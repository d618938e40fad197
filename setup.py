"""Builds the native CPU kernels with the package; everything else is in pyproject.toml.

Optional: where there is no compiler, or another kind of CPU, the build goes on without them and
the torch reference serves.
"""

import platform
from glob import glob

from setuptools import Extension, setup

SOURCES = "server/kernels/cpu"
X86 = platform.machine().lower() in {"x86_64", "amd64"}

setup(
    ext_modules=[
        Extension(
            "server.kernels.cpu._native",
            sources=sorted(glob(f"{SOURCES}/*.cpp")),
            depends=sorted(glob(f"{SOURCES}/*.h")),
            language="c++",
            extra_compile_args=[
                "-std=c++17",
                "-O3",
                "-march=x86-64-v4",
                "-mavx512bf16",
                "-mavx512vnni",
                # GCC 12 warns about its own intrinsics' undefined registers.
                "-Wno-uninitialized",
                "-Wno-maybe-uninitialized",
            ],
            extra_link_args=["-pthread"],
            optional=True,
        )
    ]
    if X86
    else []
)
