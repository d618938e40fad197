"""Builds the native CPU kernels with the package; everything else is in pyproject.toml.

The same sources become one library per instruction set, and the best that a CPU runs is chosen when
it is loaded (server/kernels/cpu/instruction_sets.py): a wheel that was built on one machine runs on
others of its kind. Optional: what the compiler can't build is left out, and without a compiler the
torch reference serves.
"""

import os
import platform
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from glob import glob

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, ExecError

SOURCES = "server/kernels/cpu"
X86 = {
    "avx512": ["-march=x86-64-v4", "-mavx512vnni", "-mavx512bf16"],
    "avxvnni": ["-mavx2", "-mfma", "-mf16c", "-mavxvnni"],
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
}
IS_X86 = platform.machine().lower() in {"x86_64", "amd64"}
FLAGS = {**(X86 if IS_X86 else {}), "portable": []}


class ParallelBuild(build_ext):
    """Compiles all files of all libraries side by side; setuptools takes one after another, and its
    own `--parallel` would put the libraries' equally named objects into one place."""

    def build_extensions(self) -> None:
        self.extensions = [each for each in self.extensions if self._knows_flags_of(each)]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            jobs = [
                [pool.submit(self._compile, extension, source) for source in extension.sources]
                for extension in self.extensions
            ]
        for extension, objects in zip(self.extensions, jobs, strict=True):
            # What can't be compiled is left to setuptools, which says why and leaves it out.
            with suppress(CompileError, ExecError):
                self._take(extension, objects)
        super().build_extensions()

    def _knows_flags_of(self, extension: Extension) -> bool:
        """Whether an empty file compiles; an older compiler does not know the newer instruction
        sets, and would say so for every file."""
        folder = os.path.join(self.build_temp, extension.name)
        empty = os.path.join(folder, "empty.cpp")
        os.makedirs(folder, exist_ok=True)
        with open(empty, "w"):
            pass
        try:
            self._compile(extension, empty)
        except CompileError as error:
            self.warn(f"{extension.name} is left out: {error}")
            return False
        return True

    def _compile(self, extension: Extension, source: str) -> list[str]:
        return self.compiler.compile(
            [source],
            output_dir=os.path.join(self.build_temp, extension.name),
            include_dirs=extension.include_dirs,
            debug=self.debug,
            extra_postargs=extension.extra_compile_args,
            depends=extension.depends,
        )

    @staticmethod
    def _take(extension: Extension, objects: list[Future[list[str]]]) -> None:
        extension.extra_objects = [path for each in objects for path in each.result()]
        extension.depends = [*extension.depends, *extension.sources]
        extension.sources = []


setup(
    cmdclass={"build_ext": ParallelBuild},
    ext_modules=[
        Extension(
            f"server.kernels.cpu._native_{name}",
            sources=sorted(glob(f"{SOURCES}/*.cpp")),
            depends=sorted(glob(f"{SOURCES}/*.h")),
            language="c++",
            extra_compile_args=[
                "-std=c++17",
                "-O3",
                # Python's own flags ask for debugging information, which takes a third of the time.
                "-g0",
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
    ],
)
