"""The terminal client in front of servers that answer oddly."""

import json
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import typer
from typer.testing import CliRunner, Result

from server.cli.chat.chat import chat
from server.errors import ConfigError

MODELS = json.dumps({"data": [{"id": "tiny"}]}).encode()


@contextmanager
def locked(
    key: str, answer: bytes = b"data: [DONE]\n\n"
) -> Generator[tuple[str, list[str | None]]]:
    """A server that lists a model to those with the key, and gives them one answer → its URL, and
    the keys it was shown."""
    seen: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(MODELS)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self._answer(answer)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

        def _answer(self, body: bytes) -> None:
            seen.append(self.headers["authorization"])
            is_known = seen[-1] == f"Bearer {key}"
            body = body if is_known else b'{"error": {"message": "no API key"}}'
            self.send_response(200 if is_known else 401)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", seen
        finally:
            server.shutdown()
            thread.join()


def run_chat(monkeypatch: pytest.MonkeyPatch, *arguments: str, **variables: str) -> Result:
    for name in ("GLIDECAPE_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    lines = iter(["hi", "/quit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    command = typer.Typer()
    command.command()(chat)
    return CliRunner().invoke(command, arguments)


@pytest.mark.parametrize(
    ("arguments", "variables"),
    [
        (("--api-key", "secret"), {}),
        (("--api-key", "secret"), {"GLIDECAPE_API_KEY": "other"}),
        ((), {"GLIDECAPE_API_KEY": "secret"}),
        ((), {"GLIDECAPE_API_KEY": "secret,second"}),
        ((), {"OPENAI_API_KEY": "secret"}),
        ((), {"GLIDECAPE_API_KEY": "secret", "OPENAI_API_KEY": "other"}),
    ],
)
def test_the_key_is_sent(
    arguments: tuple[str, ...], variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with locked("secret") as (url, seen):
        result = run_chat(monkeypatch, "--url", url, *arguments, **variables)
    assert result.exit_code == 0, result.output
    assert seen == ["Bearer secret"] * 2


@pytest.mark.parametrize(("arguments", "shown"), [((), "None"), (("--api-key", "hush"), "'…'")])
def test_a_missing_or_wrong_key_is_named_and_not_shown(
    arguments: tuple[str, ...], shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with locked("secret") as (url, _):
        result = run_chat(monkeypatch, "--url", url, *arguments)
    assert isinstance(result.exception, ConfigError)
    assert str(result.exception) == f"api_key={shown}: no API key"
    assert "hush" not in str(result.exception)


def test_a_key_that_no_header_can_carry(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run_chat(monkeypatch, "--api-key", "schlüssel")
    assert isinstance(result.exception, ConfigError)
    assert "schlüssel" not in str(result.exception)


@contextmanager
def proxy(body: bytes, status: int) -> Generator[str]:
    """A server that lists a model, and answers every chat with the same body → its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(200, MODELS)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self._send(status, body)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

        def _send(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b"<html>Bad Gateway</html>", "502 Bad Gateway"),
        (b"[]", "502 Bad Gateway"),
        (b'{"error": "upstream"}', "502 Bad Gateway"),
        (b'{"error": {"message": "no room"}}', "no room"),
    ],
)
def test_a_refusal_in_any_form_is_one_line(
    body: bytes, shown: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = iter(["hi", "/quit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    with proxy(body, 502) as url, pytest.raises(typer.Exit) as ended:
        chat(url=url)
    assert ended.value.exit_code == 1  # scripts have to know
    assert shown in capsys.readouterr().err


def test_questions_from_a_pipe() -> None:
    """Of the questions only the answers are on stdout, and one that is no text costs nothing but
    itself."""
    answer = stream_of({"choices": [{"delta": {"content": "yes"}}]})
    with locked("k", answer) as (url, _):
        command = [sys.executable, "-m", "server", "chat", "--url", f"{url}/v1/", "--api-key", "k"]
        found = subprocess.run(command, input=b"a\n\xff\nb\n", capture_output=True, check=False)
    assert found.stdout == b"yes\nyes\n"
    assert b"this line is not valid UTF-8" in found.stderr
    assert found.returncode == 1


def test_a_system_prompt_that_is_no_text() -> None:
    with pytest.raises(ConfigError, match=r"^system=.*is not valid UTF-8"):
        chat(system="x\udcff")


def test_what_answers_is_no_such_server() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            with pytest.raises(ConfigError, match="no OpenAI-compatible server: 501"):
                chat(url=f"http://127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()
            thread.join()


def stream_of(*events: object) -> bytes:
    lines = [f"data: {json.dumps(event)}\n\n" for event in events]
    return "".join([*lines, "data: [DONE]\n\n"]).encode()


@pytest.mark.parametrize(
    ("report", "shown"),
    [
        (
            {"drafted_tokens": 9, "accepted_tokens": 4, "leaves_accepted": 1,
             "tokens_per_step": 1.8},
            "; 1.80 tokens/step, 4 of 9 drafted tokens accepted (1 leaves)",
        ),
        (
            {"drafted_tokens": 0, "accepted_tokens": 0, "leaves_accepted": 0, "tokens_per_step": 1},
            "; 1.00 tokens/step",
        ),
        (None, ""),
    ],
)  # fmt: skip
def test_the_summary_says_what_speculation_did(
    report: dict[str, float] | None, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunk = {"choices": [{"delta": {"content": "Hello"}}]}
    last = {"choices": [{"delta": {}}]} | ({"speculation": report} if report else {})
    usage = {"choices": [], "usage": {"completion_tokens": 2}}
    with locked("secret", stream_of(chunk, last, usage)) as (url, _):
        result = run_chat(monkeypatch, "--url", url, "--api-key", "secret")
    assert result.exit_code == 0, result.output
    summary = " ".join(result.output.split())
    assert "Hello" in summary and "2 tokens, first after" in summary
    assert summary.endswith(f"tokens/s{shown}")


def test_thinking_is_shown_beside_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    deltas = [{"reasoning_content": "Hm"}, {"reasoning_content": "."}, {"content": "Yes."}]
    lines = [json.dumps({"choices": [{"delta": delta}]}) for delta in deltas]
    body = "".join(f"data: {line}\n\n" for line in [*lines, "[DONE]"]).encode()
    with locked("secret", body) as (url, _):
        result = run_chat(monkeypatch, "--url", url, "--api-key", "secret")
    assert result.exit_code == 0, result.output
    assert result.stdout == "Yes.\n"
    assert "Hm.\n\n" in result.stderr
