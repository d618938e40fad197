"""Which of the native libraries serves; with a CPU and a build that are made up."""

import ctypes
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from server.errors import ConfigError
from server.kernels.cpu import abi, library
from server.kernels.cpu.instruction_sets import (
    INSTRUCTION_SETS,
    VARIABLE,
    InstructionSet,
    KernelsUnavailableError,
    asks_cpu,
    built_libraries,
    pick,
)
from server.kernels.cpu.library import kernels_in_use, native_library
from server.loading.machine import cpu_kernels, describe_kernels, pick_dtype
from server.models.layers import Placement
from tests.kernels.native_models import INSTRUCTION_SETS_HERE, native_model, random_tokens
from tests.kernels.paged import CPU, PagedModel

CPUINFO = Path("/proc/cpuinfo")
ALL: dict[InstructionSet, Path] = {name: Path(name) for name in INSTRUCTION_SETS}


def cpu(*names: InstructionSet) -> Callable[[InstructionSet], bool]:
    return lambda name: name in names


@pytest.mark.parametrize(
    ("runs", "built", "picked"),
    [
        (INSTRUCTION_SETS, INSTRUCTION_SETS, "avx512"),
        (("avx512", "avx2", "portable"), INSTRUCTION_SETS, "avx512"),
        (("avxvnni", "avx2", "portable"), INSTRUCTION_SETS, "avxvnni"),
        (("avx2", "portable"), INSTRUCTION_SETS, "avx2"),
        (("portable",), INSTRUCTION_SETS, "portable"),
        (INSTRUCTION_SETS, ("avxvnni", "avx2", "portable"), "avxvnni"),
        (("avx512", "avx2", "portable"), ("avxvnni", "avx2", "portable"), "avx2"),
        (("avxvnni", "avx2", "portable"), ("avx512", "avx2", "portable"), "avx2"),
        (("avx2", "portable"), ("avx512", "avxvnni", "portable"), "portable"),
        (("avx2", "portable"), ("avx512",), None),
        (INSTRUCTION_SETS, (), None),
    ],
)
def test_auto_is_the_best_that_was_built_and_runs(
    runs: tuple[InstructionSet, ...], built: tuple[InstructionSet, ...], picked: str | None
) -> None:
    assert pick("auto", {name: ALL[name] for name in built}, cpu(*runs)) == picked


def test_a_wish_is_fulfilled() -> None:
    runs = cpu(*INSTRUCTION_SETS)
    assert [pick(name, ALL, runs) for name in INSTRUCTION_SETS] == list(INSTRUCTION_SETS)
    assert pick("none", ALL, runs) is None


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("avx512", "this CPU lacks instructions that these kernels need"),
        ("avxvnni", "this CPU lacks instructions that these kernels need"),
        ("avx2", "these kernels were not built; there are: avx512, avxvnni, portable"),
        ("sse9", "expected auto, avx512, avxvnni, avx2, portable or none"),
        ("AVX2", "expected auto, avx512, avxvnni, avx2, portable or none"),
    ],
)
def test_a_wish_that_cannot_be_fulfilled(choice: str, message: str) -> None:
    built: dict[InstructionSet, Path] = {n: path for n, path in ALL.items() if n != "avx2"}
    with pytest.raises(KernelsUnavailableError, match=message):
        pick(choice, built, cpu("avx2", "portable"))


def test_libraries_are_found_by_name(tmp_path: Path) -> None:
    suffix = ".cpython-311-x86_64-linux-gnu.so"
    for name in (f"_native_avx2{suffix}", f"_native_portable{suffix}", "_native.so", "other.so"):
        (tmp_path / name).touch()
    found = built_libraries(tmp_path)
    assert dict(found) == {
        "avx2": tmp_path / f"_native_avx2{suffix}",
        "portable": tmp_path / f"_native_portable{suffix}",
    }


def test_without_the_portable_library_nothing_is_known_of_the_cpu() -> None:
    assert not asks_cpu({"avx512": Path("avx512")})("avx512")


needs_build = pytest.mark.skipif(not INSTRUCTION_SETS_HERE, reason="no native library was built")


@needs_build
def test_this_cpu() -> None:
    """AVX2 is part of both others. torch agrees on it and on AVX-512, Linux on AVX-VNNI."""
    runs = asks_cpu(built_libraries())
    assert runs("portable")
    assert runs("avx2") or not (runs("avx512") or runs("avxvnni"))
    assert runs("avx2") == torch.cpu._is_avx2_supported()  # pyright: ignore[reportPrivateUsage]
    assert runs("avx512") == torch.cpu._is_vnni_supported()  # pyright: ignore[reportPrivateUsage]
    if CPUINFO.exists():
        assert runs("avxvnni") == ("avx_vnni" in CPUINFO.read_text().split())


@pytest.mark.parametrize("name", sorted({*built_libraries()} - {*INSTRUCTION_SETS_HERE}))
def test_what_this_cpu_does_not_run_is_refused(
    name: InstructionSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, name)
    with pytest.raises(ConfigError, match=f"='{name}': this CPU lacks instructions"):
        cpu_kernels()


@pytest.mark.parametrize("name", INSTRUCTION_SETS_HERE)
def test_the_variable_decides(name: InstructionSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, name)
    assert kernels_in_use() == cpu_kernels() == name
    found = native_library()
    assert found is not None
    assert f"_native_{name}" in found._name  # pyright: ignore[reportPrivateUsage]
    assert pick_dtype("auto", CPU) is torch.bfloat16
    floats, halves = (Placement(CPU, dtype) for dtype in (torch.float32, torch.float16))
    assert describe_kernels(floats, is_fused=True) == f"native CPU kernels: {name}"
    assert describe_kernels(floats, is_fused=False) == f"native CPU products and attention: {name}"
    assert f"({name}) do not take this precision" in describe_kernels(halves, is_fused=False)


def test_none_leaves_everything_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "none")
    assert native_library() is None
    described = describe_kernels(Placement(CPU, torch.float32), is_fused=False)
    assert described.startswith("torch kernels: no native ones")
    for has_bf16, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr("server.loading.machine.has_avx512_bf16", lambda has=has_bf16: has)
        assert pick_dtype("auto", CPU) is dtype


@pytest.mark.parametrize("value", ["", "auto"])
@needs_build
def test_by_itself_the_best_serves(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, value)
    assert kernels_in_use() == INSTRUCTION_SETS_HERE[0]


def test_a_wrong_wish_is_told_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where another precision than auto is asked for."""
    monkeypatch.setenv(VARIABLE, "avx1024")
    with pytest.raises(ConfigError, match="GLIDECAPE_CPU_KERNELS='avx1024': expected auto, avx512"):
        pick_dtype("float32", CPU)


def test_models_of_all_sets_in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model stays with the library that made it, and the libraries share nothing: each gives the
    bits it gave before the others were loaded, and these are close to one another."""
    tokens, before, models = random_tokens(20), list[torch.Tensor](), list[PagedModel]()
    for name in INSTRUCTION_SETS_HERE:
        monkeypatch.setenv(VARIABLE, name)
        models.append(PagedModel(native_model("all-96")))
        before.append(models[-1].run(tokens, [20]))
    monkeypatch.setattr(library, "native_library", lambda: None)
    for model, expected in zip(models, before, strict=True):
        assert torch.equal(model.run(tokens, [7, 13]), expected)
        assert (expected - before[0]).square().mean().sqrt() < 0.02 * before[0].std()


@needs_build
def test_a_library_of_other_sources_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a structure that has grown since it was built, a step would read anything."""

    class Grown(abi.Round):
        _fields_ = (("more", ctypes.c_int64),)

    structures = [*library.STRUCTURES[:-1], Grown]
    monkeypatch.setattr(library, "STRUCTURES", structures)
    for cached in (library._pick, library._load):  # pyright: ignore[reportPrivateUsage]
        monkeypatch.setattr(library, cached.__name__, cached.__wrapped__)
    with pytest.raises(ConfigError, match=r"='auto': .*built from other sources.*build it again"):
        cpu_kernels()


@needs_build
def test_a_library_from_before_sizes_were_asked_for() -> None:
    class Old:
        """Has no function of that name."""

    assert library._sizes_in(Old()) is None  # pyright: ignore
