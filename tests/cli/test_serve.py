"""How the app is served: TLS, and settings from the command line."""

import asyncio
import socket
import ssl
import subprocess
from pathlib import Path

import httpx
import pytest
import typer
import uvicorn
from typer.testing import CliRunner

from server.api.http.certificates import check_tls
from server.cli.options import with_settings
from server.cli.serve import announce, uvicorn_config
from server.config import ServerSettings, load_settings
from server.errors import ConfigError
from tests.api.harness import make_app
from tests.certificates import make_certificate
from tests.doubles import ScriptedEngine


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with cert.pem and key.pem for localhost, and another key."""
    folder = tmp_path_factory.mktemp("tls")
    make_certificate(folder / "cert.pem", folder / "key.pem")
    command = ["openssl", "genpkey", "-algorithm", "ed25519", "-out", "other.pem"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    command = ["openssl", "pkey", "-in", "key.pem", "-aes256", "-passout", "pass:x"]
    subprocess.run([*command, "-out", "locked.pem"], cwd=folder, check=True, capture_output=True)
    both = (folder / "key.pem").read_bytes() + (folder / "cert.pem").read_bytes()
    (folder / "both.pem").write_bytes(both)
    return folder


@pytest.mark.parametrize(("cert", "key"), [("cert.pem", "key.pem"), ("both.pem", None)])
async def test_https(pem: Path, cert: str, key: str | None) -> None:
    files = {"ssl_certfile": pem / cert, "ssl_keyfile": key and pem / key}
    settings = load_settings(ServerSettings, **files)
    check_tls(settings.ssl_certfile, settings.ssl_keyfile)
    config = uvicorn_config(make_app(ScriptedEngine([])), settings)
    config.port = 0
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    trusts = ssl.create_default_context(cafile=str(pem / "cert.pem"))
    try:
        async with httpx.AsyncClient(verify=trusts) as client:
            response = await client.get(f"https://localhost:{port}/health")
    finally:
        server.should_exit = True
        await task
    assert response.json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("cert", "key", "named", "reason"),
    [
        ("missing.pem", "key.pem", "ssl_certfile", "missing.pem.*no such file"),
        ("cert.pem", "missing.pem", "ssl_keyfile", "missing.pem.*no such file"),
        (".", None, "ssl_certfile", "no such file"),
        (None, "key.pem", "ssl_keyfile", "needs ssl_certfile"),
        ("cert.pem", None, "ssl_certfile", "cert.pem.*no certificate"),
        ("cert.pem", "other.pem", "ssl_keyfile", "other.pem.*no certificate"),
        ("cert.pem", "locked.pem", "ssl_keyfile", "locked.pem.*unencrypted"),
    ],
)
def test_bad_files_are_named(
    pem: Path, cert: str | None, key: str | None, named: str, reason: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{named}=.*{reason}"):
        check_tls(cert and pem / cert, key and pem / key)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            {},
            "/v1/chat/completions -H 'content-type: application/json' \\\n    -d",
        ),
        ({"api_key": ["secret"]}, "-H 'authorization: Bearer KEY' \\"),
        ({"ssl_certfile": "cert.pem"}, "curl https://127.0.0.1:{port}/v1/"),
    ],
)
def test_the_announcement(
    given: dict[str, object], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        announce(load_settings(ServerSettings, **given), listener, "model")
        port = listener.getsockname()[1]
    printed = capsys.readouterr().err
    assert expected.format(port=port) in printed
    scheme = "https" if "ssl_certfile" in given else "http"
    assert f"open {scheme}://127.0.0.1:{port} in a browser" in printed
    assert "secret" not in printed


def parse(*arguments: str) -> ServerSettings:
    """The settings that `glidecape serve` would have got."""
    found: list[ServerSettings] = []

    @with_settings(ServerSettings)
    def command(settings: ServerSettings) -> None:
        found.append(settings)

    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return found[0]


def test_an_option_that_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIDECAPE_API_KEY", "from,environment")

    def keys(*arguments: str) -> list[str]:
        return [key.get_secret_value() for key in parse(*arguments).api_key]

    assert keys() == ["from", "environment"]
    assert keys("--api-key", "one") == ["one"]
    assert keys("--api-key", "one", "--api-key", "two,three") == ["one", "two,three"]


def test_switches_and_lists_are_as_before() -> None:
    settings = parse(
        "--enforce-eager", "--no-log-prompts", "--cors-origins", "https://a.com,https://b.com"
    )
    assert settings.enforce_eager is True
    assert settings.log_prompts is False
    assert settings.cors_origins == ("https://a.com", "https://b.com")
