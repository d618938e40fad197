"""No value of any setting ends in a traceback: it is taken, or refused in one line that names it.

In one process, from the settings to the built app. That such a line comes with exit code 2 is
tested with processes in tests/cli/test_commands.py.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from server.build import build_app
from server.cli.serve import bind, check_tls
from server.config import ServerSettings, load_settings
from server.errors import StartupError
from tests.weights.conftest import write_file
from tests.weights.train.checkpoints import write_checkpoint

ABSURD = (
    "",
    "-1",
    "nan",
    "1e400",
    "9" * 40,
    "/proc/no/such/place",
    "\udcff",  # what Python makes of bytes that are no UTF-8
    "../..",
    "x" * 70 + ".example",
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_checkpoint(tmp_path_factory.mktemp("absurd") / "model"))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a value names lies in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def start(**given: object) -> None:
    """What `glidecape serve` does before it serves."""
    settings = load_settings(ServerSettings, **given)
    check_tls(settings.ssl_certfile, settings.ssl_keyfile)
    bind(settings.host, settings.port).close()
    _, loaded = build_app(settings, lambda line: None)
    loaded.close()


@pytest.mark.parametrize("name", ServerSettings.model_fields)
def test_absurd_values(name: str, model: str, tmp_path: Path) -> None:
    sound = {"model": model, "cache_dir": str(tmp_path), "dtype": "float32", "port": "0"}
    for value in ABSURD:
        given = [value] if name == "api_key" else value
        try:
            start(**sound | {name: given})
        except StartupError as error:
            assert "\n" not in str(error), value
            if name != "model":  # which is many things
                assert name in str(error) or value in str(error), str(error)


@pytest.mark.parametrize("value", ABSURD)
def test_a_cache_that_is_used(value: str, tmp_path: Path) -> None:
    try:
        start(model=str(write_file(tmp_path / "tiny.gguf")), cache_dir=value, port="0")
    except StartupError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("size", ["900G", "9e9T", "1000000000T"])
def test_a_kv_cache_larger_than_the_memory_is_refused_by_name(size: str, model: str) -> None:
    with pytest.raises(StartupError, match=r"^kv_memory=.*(are free|such as 512M or 2G)"):
        start(model=model, kv_memory=size, port="0")
