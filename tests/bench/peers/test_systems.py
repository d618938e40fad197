"""Missing peers are named with what installs them; workers get what they need."""

import json
import sys
from pathlib import Path

import pytest

from bench.peers.suite import chosen
from bench.peers.systems import (
    OURS,
    OURS_PLAIN,
    PEERS,
    WORKERS,
    Machine,
    command,
    environment,
    find_missing,
    needs_gguf,
    peers_python,
)
from server.errors import ConfigError

BY_NAME = {peer.name: peer for peer in PEERS}
MACHINE = Machine(
    gguf=Path("/m.gguf"),
    folder=Path("/m"),
    dtype="bfloat16",
    threads=2,
    max_streams=16,
    max_tokens=300,
    settings={"model": "m", "draft": "auto"},
)


def test_every_worker_is_there() -> None:
    for system in (*PEERS, OURS, OURS_PLAIN):
        assert (WORKERS / system.script).is_file()


def test_without_an_environment_all_but_transformers_are_missing() -> None:
    missing = find_missing(PEERS, None)
    assert set(missing) == {"llama.cpp", "OpenVINO GenAI", "vLLM"}
    assert all("make bench-peers" in why for why in missing.values())


def test_a_peer_that_is_not_installed_is_named_with_the_command() -> None:
    """This environment has none of the three."""
    missing = find_missing(PEERS, Path(sys.executable))
    assert f"{sys.executable} -m pip install llama-cpp-python" in missing["llama.cpp"]
    assert "GGML_NATIVE=ON" in missing["llama.cpp"]
    assert f"{sys.executable} -m pip install openvino-genai" in missing["OpenVINO GenAI"]
    assert set(missing) == {"llama.cpp", "OpenVINO GenAI", "vLLM"}


def test_an_interpreter_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="peers_python='/no/python'"):
        peers_python(Path("/no/python"))
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(ConfigError, match="does not run"):
        find_missing(PEERS, broken)


def test_the_default_environment_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert peers_python(None) is None
    (tmp_path / ".venv-peers/bin").mkdir(parents=True)
    (tmp_path / ".venv-peers/bin/python").touch()
    assert peers_python(None) == Path(".venv-peers/bin/python")


def test_what_reads_gguf_needs_one() -> None:
    assert needs_gguf(PEERS, MACHINE) == {}
    folder = Machine(None, Path("/m"), "bfloat16", 2, 16, 300, {})
    assert set(needs_gguf(PEERS, folder)) == {"llama.cpp", "OpenVINO GenAI"}


def test_commands() -> None:
    python, script, options = command(BY_NAME["llama.cpp"], MACHINE, Path("/peers/python"))
    assert (python, script) == ("/peers/python", str(WORKERS / "llama_cpp_batch.py"))
    assert json.loads(options) == {
        "gguf": "/m.gguf", "threads": 2, "max_streams": 16, "max_tokens": 300
    }  # fmt: skip
    python, _, options = command(BY_NAME["transformers"], MACHINE, None)
    assert python == sys.executable
    assert (json.loads(options)["model"], json.loads(options)["dtype"]) == ("/m", "bfloat16")
    drafts = [json.loads(command(s, MACHINE, None)[2])["settings"] for s in (OURS_PLAIN, OURS)]
    assert drafts == [{"model": "m", "draft": "none"}, {"model": "m", "draft": "auto"}]


def test_peers_run_with_their_own_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    assert {"OMP_WAIT_POLICY", "PYTHONPATH"}.isdisjoint(environment(BY_NAME["vLLM"]))
    assert environment(OURS)["PYTHONPATH"] == str(WORKERS.parents[2])


def test_choosing_peers() -> None:
    assert chosen([]) == list(PEERS)
    assert chosen(["vLLM"]) == [BY_NAME["vLLM"]]
    with pytest.raises(ConfigError, match="peer='ollama': is none of transformers, llama"):
        chosen(["ollama"])
