"""A client of a chat server: connects, asks for the model's name, and streams answers. Whatever the
server, the proxies or the environment do wrong is an error for the user. Knows no terminal.
"""

import json
import os
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from server.cli.terminal import describe_speculation
from server.errors import ConfigError, GlidecapeError, StartupError

_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
"""Variables that every connection goes by, in capitals or not."""

_NO_SUCH_FORM = (LookupError, TypeError, AttributeError, ValueError, RecursionError)
"""What reading a document that is not of the expected form raises."""


class ChatError(GlidecapeError):
    """The server refused a message, or broke off."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What one event adds to an answer."""

    thought: str = ""
    text: str = ""
    has_choice: bool = False
    num_tokens: int | None = None
    """Tokens of the whole answer, where the event says it."""
    speculation: str = ""
    """What speculation did for it; other servers say nothing of that."""


def connect(url: str, api_key: str | None) -> httpx.Client:
    """A client of the server at an address, whose base URL may end with /v1, as the SDKs have it.

    Raises:
        ConfigError: the address is none, or no header can carry the key.
        StartupError: the environment says of connections what can't be done.
    """
    base, headers = url.rstrip("/").removesuffix("/v1"), _authorization(api_key)
    try:
        httpx.URL(base)
    except httpx.InvalidURL as error:
        raise ConfigError("url", url, f"is no address: {error}") from None
    try:
        timeout = httpx.Timeout(None, connect=5)
        return httpx.Client(base_url=base, timeout=timeout, headers=headers)
    except (httpx.InvalidURL, ValueError, ImportError, OSError) as error:
        # Their values stay unsaid: proxies have passwords.
        names = _CERTIFICATES if isinstance(error, OSError) else _PROXIES
        given = ", ".join(name for name in sorted(os.environ) if name.upper() in names)
        raise StartupError(f"can't connect by {given or 'the system'}: {error}") from None


def _authorization(api_key: str | None) -> dict[str, str]:
    """The header with the key. Of a list, as the server itself reads it from its variable, the
    first.

    Raises:
        ConfigError: no header can carry it.
    """
    key = (api_key or "").split(",")[0].strip()
    if not key:
        return {}
    if not (key.isascii() and key.isprintable()):
        raise ConfigError("api_key", "…", "is to be printable ASCII")
    return {"authorization": f"Bearer {key}"}


def model_name(client: httpx.Client, url: str) -> str:
    """Asks the server for the name of its model.

    Raises:
        ConfigError: there is no server, or it doesn't take the key.
    """
    try:
        response = client.get("/v1/models")
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise ConfigError("url", url, f"no server answers there: {error}") from None
    if response.status_code == 401:
        given = "…" if "authorization" in client.headers else None  # keys are never shown
        raise ConfigError("api_key", given, _refusal(response))
    try:
        return str(response.raise_for_status().json()["data"][0]["id"])
    except (httpx.HTTPStatusError, *_NO_SUCH_FORM):
        is_page = response.is_success
        what = "it lists no models" if is_page else _refusal(response)
        reason = f"what answers there is no OpenAI-compatible server: {what}"
        raise ConfigError("url", url, reason) from None


def pieces(client: httpx.Client, body: Mapping[str, Any]) -> Generator[Piece, None, None]:
    """Streams an answer.

    Raises:
        ChatError: the server's own message; the connection broke; what came is no answer.
    """
    body = {**body, "stream": True, "stream_options": {"include_usage": True}}
    try:
        with client.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.is_error:
                response.read()
                raise ChatError(_refusal(response))
            for line in response.iter_lines():
                data = line.removeprefix("data: ")
                if data == line or data == "[DONE]":
                    continue  # a comment, a blank line, or the end
                yield _piece(data)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ChatError(f"the connection broke: {error}") from None


def _piece(data: str) -> Piece:
    try:
        event: dict[str, Any] = json.loads(data)
        refusal = event.get("error")
        if refusal is None:
            return _read(event)
        message = str(refusal["message"])
    except _NO_SUCH_FORM:
        raise ChatError(f"the server sent no piece of an answer: {data[:80]}") from None
    raise ChatError(message)


def _read(event: dict[str, Any]) -> Piece:
    deltas: list[dict[str, Any]] = [choice["delta"] for choice in event["choices"]]
    num_tokens = (event.get("usage") or {}).get("completion_tokens")
    return Piece(
        _joined(delta.get("reasoning_content") for delta in deltas),
        _joined(delta.get("content") for delta in deltas),
        bool(deltas),
        None if num_tokens is None else int(num_tokens),
        _speculation(event.get("speculation")),
    )


def _joined(texts: Iterable[str | None]) -> str:
    """The texts together, with `?` for half surrogates, which JSON can escape and a terminal can't
    show."""
    return "".join(text or "" for text in texts).encode(errors="replace").decode()


def _speculation(report: dict[str, Any] | None) -> str:
    if not report:
        return ""
    return describe_speculation(
        report["tokens_per_step"],
        report["drafted_tokens"],
        report["accepted_tokens"],
        report["leaves_accepted"],
    )


def _refusal(response: httpx.Response) -> str:
    """The server's own message; of an answer in another form (a proxy's page) the status line."""
    try:
        return str(response.json()["error"]["message"])
    except _NO_SUCH_FORM:
        return f"{response.status_code} {response.reason_phrase}".rstrip()
