"""The command line as a user meets it: exit codes, one-line errors, answers on stdout."""

import json
import re
import shutil
import socket
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from server import __version__, cli
from server.cli import make_app
from server.config import DEFAULT_MODEL, load_settings
from server.config import ModelSettings as Settings
from tests.live import run_glidecape
from tests.weights.train.checkpoints import write_checkpoint
from weights.locate import locate_model

COMMANDS = "serve", "generate", "chat", "data", "convert", "train", "eval", "bench"
pytestmark = pytest.mark.real_model


@pytest.fixture(scope="module")
def checkpoint() -> Path:
    """The default model, converted."""
    cache = load_settings(Settings).cache_dir
    return locate_model(DEFAULT_MODEL, cache, torch.bfloat16, lambda line: None)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model."""
    return write_checkpoint(tmp_path_factory.mktemp("commands") / "tiny")


def one_line_error(*arguments: str) -> str:
    """Runs a command that must fail as users should see it: exit code 2, no traceback."""
    done = run_glidecape(*arguments)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    (line,) = [text for text in done.stderr.splitlines() if text.startswith("glidecape: ")]
    return line


def test_generate_prints_the_answer_alone_on_stdout() -> None:
    """Drafts by a fixed policy: `auto` may find that drafting does not pay on this machine."""
    arguments = ("generate", "What is the capital of France?", "--max-tokens", "16")
    done = run_glidecape(*arguments, "--temperature", "0", "--speculation-policy", "chain")
    assert done.returncode == 0
    assert "Paris" in done.stdout
    assert re.search(r"tokens/s; \d\.\d\d tokens/step", done.stderr)
    assert "temperature 0.2, top_p 0.9" in done.stderr
    seeded = (*arguments, "--seed", "5")
    assert run_glidecape(*seeded).stdout == run_glidecape(*seeded).stdout


def test_names_are_checked_before_torch_is_imported(tmp_path: Path) -> None:
    """With torch out of reach, what needs it would end in a traceback."""
    program = (
        "import sys; sys.modules['torch'] = None; sys.argv[0] = 'glidecape'\n"
        "from server.cli import main; main()"
    )
    (tmp_path / "folder").mkdir()
    for arguments, says in (
        (("serve", "--model", "no-such-model"), "no-such-model: no such model; accepted: "),
        (("generate", "hi", "--model", "/no/such.gguf"), "/no/such.gguf: no such file"),
        (("eval", "x.jsonl", "--draft", "nothing"), "draft='nothing': expected a folder"),
        (("bench", "--model", str(tmp_path / "folder")), "folder: has no config.json"),
        (("bench", "peers", "--draft", "/no/such"), "/no/such: no such model"),
        (("train", "--out", "x", "--target", "no-such-model"), "no-such-model: no such model"),
        (("convert", "a", "b", "--target", "no-such-model"), "no-such-model: no such model"),
        (("serve", "--draft", str(tmp_path / "folder")), "folder: has no config.json"),
        (("eval", "x.jsonl", "--draft-model", "/no/such"), "/no/such: no such model"),
    ):
        command = [sys.executable, "-c", program, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 2, done.stderr
        (line,) = done.stderr.splitlines()
        assert line.startswith("glidecape: ") and says in line


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS), ("bench", "peers")])
def test_help_fits_eighty_columns_with_whole_names(
    command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    options = CliRunner().invoke(make_app(), [*command, "-h"], env={"COLUMNS": "80"})
    assert options.exit_code == 0
    assert options.output == CliRunner().invoke(make_app(), [*command, "--help"]).output
    lines = options.output.splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in options.output
    if command in {("serve",), ("generate",), ("bench",)}:
        flags = {f"--{name.replace('_', '-')}" for name in Settings.model_fields}
        assert flags <= set(re.findall(r"--[a-z-]+", options.output))
        assert {"Options:", "Model:", "Speculation:", "Memory and batches:"} <= set(lines)


def test_version() -> None:
    result = CliRunner().invoke(make_app(), ["--version"])
    assert (result.exit_code, result.output) == (0, f"glidecape {__version__}\n")


def test_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = one_line_error("serve", "--port", str(port))
    assert f"port={port}" in line
    assert "in use" in line


def test_an_unknown_model() -> None:
    assert "/no/such/model" in one_line_error("generate", "hi", "--model", "/no/such/model")


def test_a_bad_setting() -> None:
    assert "block_size='0'" in one_line_error("generate", "hi", "--block-size", "0")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--kv-memory", "900G"), "kv_memory=966367641600: 900.0 GiB are asked for"),
        (("--threads", "9" * 30), "threads="),
        (("--cache-dir", "a\udcff"), "cache_dir='a\\udcff': is not valid UTF-8"),
    ],
)
def test_absurd_settings(arguments: tuple[str, ...], says: str, tiny: Path) -> None:
    """More of them in tests/test_absurd_settings.py."""
    assert says in one_line_error("generate", "hi", "--model", str(tiny), *arguments)


def test_a_misspelt_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIDECAPE_MODLE", "x")
    for command in (("generate", "hi"), ("chat",), ("serve",), ("bench",)):
        assert "GLIDECAPE_MODLE='…': there is no such setting" in one_line_error(*command)


def test_a_prompt_longer_than_the_context() -> None:
    line = one_line_error("generate", "one two three " * 20, "--max-model-len", "32")
    assert "the context holds 32" in line


def test_a_prompt_that_is_no_utf8() -> None:
    assert "prompt='a\\udcff': is not valid UTF-8" in one_line_error("generate", "a\udcff")


def test_a_truncated_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cut"
    shutil.copytree(checkpoint, folder)
    weights = folder / "model.safetensors"
    with weights.open("r+b") as file:
        file.truncate(weights.stat().st_size // 2)
    line = one_line_error("generate", "hi", "--model", str(folder))
    assert "model.safetensors" in line


def test_an_unsupported_architecture(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    other = {"architectures": ["MambaForCausalLM"], "model_type": "mamba"}
    (folder / "config.json").write_text(json.dumps(config | other))
    assert "MambaForCausalLM" in one_line_error("serve", "--port", "0", "--model", str(folder))


def test_chat_without_a_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closing:
        port = closing.getsockname()[1]
    line = one_line_error("chat", "--url", f"http://127.0.0.1:{port}")
    assert f"http://127.0.0.1:{port}" in line


def test_commands_of_a_package_that_cannot_be_imported_are_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = EntryPoint("more", "nowhere.commands:register", "glidecape.commands")
    monkeypatch.setattr(cli, "entry_points", lambda group: [broken])
    with pytest.raises(SystemExit) as ended:
        make_app()(["--version"])
    assert ended.value.code == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("glidecape ")
    assert "the commands of nowhere.commands:register can't be loaded: No module" in printed.err
