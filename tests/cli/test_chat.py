"""The terminal client in front of servers that answer oddly."""

import json
import subprocess
import sys
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
import typer
from typer.testing import CliRunner, Result

from server.cli.chat.chat import chat
from server.cli.chat.client import ChatError, Piece, connect, model_name, pieces
from server.errors import ConfigError, StartupError

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


def run_chat(
    monkeypatch: pytest.MonkeyPatch,
    *arguments: str,
    lines: Sequence[str] = ("hi", "/quit"),
    **variables: str,
) -> Result:
    for name in ("GLIDECAPE_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    typed = iter(lines)
    monkeypatch.setattr("builtins.input", lambda prompt: next(typed))
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


@pytest.mark.parametrize(
    ("usage", "shown"),
    [
        ({"completion_tokens": 0}, "no tokens"),
        (None, "tokens not counted"),
        ({}, "tokens not counted"),
    ],
)
def test_an_answer_that_ends_at_once_was_not_stopped(
    usage: dict[str, int] | None, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first token may be its end; some servers count nothing."""
    last = {"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": usage}
    with locked("secret", stream_of(last)) as (url, _):
        result = run_chat(monkeypatch, "--url", url, "--api-key", "secret")
    assert result.output.split("\n")[-2] == shown


def test_thinking_is_shown_beside_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    deltas = [{"reasoning_content": "Hm"}, {"reasoning_content": "."}, {"content": "Yes."}]
    lines = [json.dumps({"choices": [{"delta": delta}]}) for delta in deltas]
    body = "".join(f"data: {line}\n\n" for line in [*lines, "[DONE]"]).encode()
    with locked("secret", body) as (url, _):
        result = run_chat(monkeypatch, "--url", url, "--api-key", "secret")
    assert result.exit_code == 0, result.output
    assert result.stdout == "Yes.\n"
    assert "Hm.\n\n" in result.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HTTP_PROXY", "http://user:hush@[::1"),
        ("http_proxy", "nonsense://user:hush@x"),
        ("ALL_PROXY", "bad://x"),
        ("NO_PROXY", "[::1"),
        ("SSL_CERT_FILE", "/no/such/file"),
        ("SSL_CERT_FILE", __file__),
    ],
)
def test_what_the_environment_says_of_connections_and_is_wrong(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line that names the variable, and not its value: a proxy's has a password."""
    for other in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_DIR"):
        monkeypatch.delenv(other, raising=False)
        monkeypatch.delenv(other.lower(), raising=False)
    result = run_chat(monkeypatch, "--url", "http://10.0.0.1:1", **{name: value})
    assert isinstance(result.exception, StartupError)
    assert str(result.exception).startswith(f"can't connect by {name}: ")
    assert "hush" not in str(result.exception)


@pytest.mark.parametrize("url", ["http://[::1", "http://a:b", "http://a\nb", "http://256.1.1.1"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^url='http.*: is no address: "):
        chat(url=url)


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "ftp://x", f"http://{'a' * 70}.x:1"])
def test_an_address_that_no_client_can_ask(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^url='.*: no server answers there: "):
        chat(url=url)


def client_of(body: bytes) -> httpx.Client:
    """Of a server whose every answer is the same."""
    transport = httpx.MockTransport(lambda request: httpx.Response(200, content=body))
    return httpx.Client(transport=transport, base_url="http://test")


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b"null", b'{"data": []}', b'{"data": ["a"]}', b"\xff", b"[" * 9999],
)
def test_a_list_of_models_in_another_form(body: bytes) -> None:
    with client_of(body) as client, pytest.raises(ConfigError, match="it lists no models"):
        model_name(client, "http://test")


@pytest.mark.parametrize(
    "data",
    [
        b"not JSON",
        b"[]",
        b"{}",
        b'{"choices": [1]}',
        b'{"choices": [{"delta": null}]}',
        b'{"choices": [{"delta": {"content": ["a"]}}]}',
        b'{"choices": [], "usage": {"completion_tokens": []}}',
        b'{"choices": [], "speculation": {"drafted_tokens": 1}}',
        b'{"error": "upstream"}',
    ],
)
def test_a_stream_in_another_form(data: bytes) -> None:
    with client_of(b"data: " + data + b"\n\n") as client:
        with pytest.raises(ChatError, match=r"^the server sent no piece of an answer: "):
            list(pieces(client, {}))


def test_what_no_terminal_can_show_is_a_question_mark() -> None:
    with client_of(stream_of({"choices": [{"delta": {"content": "a\ud800"}}]})) as client:
        assert list(pieces(client, {})) == [Piece(text="a?", has_choice=True)]


def test_a_key_in_a_list_is_the_first() -> None:
    with connect("http://test/v1/", "a, b") as client:
        assert client.headers["authorization"] == "Bearer a"
        assert str(client.base_url) == "http://test"


def test_what_fails_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three answers the second fails, and so does the first try to get it again."""
    asked: list[list[str]] = []
    yes = stream_of({"choices": [{"delta": {"content": "yes"}}]})

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, content=MODELS)
        asked.append([each["content"] for each in json.loads(request.content)["messages"]])
        is_broken = len(asked) in (2, 3)
        return httpx.Response(200, content=b"data: broken\n\n" if is_broken else yes)

    transport = httpx.MockTransport(answer)
    client = httpx.Client(transport=transport, base_url="http://test")
    # By its name in a path, the module is hidden by the command.
    monkeypatch.setattr(sys.modules[chat.__module__], "connect", lambda *_: client)
    lines = ("one", "two", "/retry", "/retry", "/retry", "three", "/quit")
    result = run_chat(monkeypatch, lines=lines)
    again = ["one", "yes", "two"]
    assert asked == [["one"], again, again, again, again, [*again, "yes", "three"]]
    assert result.output.count("no piece of an answer") == 2
