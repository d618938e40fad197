"""The terminal client in front of servers that answer oddly."""

import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from server.cli.chat import chat

MODELS = json.dumps({"data": [{"id": "tiny"}]}).encode()


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
    with proxy(body, 502) as url:
        chat(url=url)
    assert shown in capsys.readouterr().err
