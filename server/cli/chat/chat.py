"""`glidecape chat`: a terminal client of a running server."""

import io
import json
import sys
from collections.abc import Generator
from contextlib import closing
from typing import Annotated, Any

import httpx
import typer

from server.cli.chat.conversation import COMMANDS, CommandError, Conversation
from server.cli.chat.line_editing import edit_lines
from server.cli.terminal import (
    Stopwatch,
    describe_speculation,
    stderr,
    write_answer,
    write_thinking,
)
from server.config import ServerSettings, is_utf8
from server.errors import ConfigError, GlidecapeError
from server.setting_sources import check_environment

_HINT = "/help lists the commands, Ctrl-D leaves, Ctrl-C stops an answer"


class ChatError(GlidecapeError):
    """The server refused a message, or broke off."""


def chat(
    url: Annotated[str, typer.Option(help="Address of the server.")] = "http://127.0.0.1:8000",
    system: Annotated[str | None, typer.Option(help="System prompt.")] = None,
    temperature: Annotated[
        float | None, typer.Option(help="0 is greedy; default: the server's.", min=0, max=2)
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer.", min=1)] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            help="Key of the server, if it needs one. Other users of the machine can see the"
            " option, but not the variables.",
            envvar=["GLIDECAPE_API_KEY", "OPENAI_API_KEY"],
            show_envvar=True,
        ),
    ] = None,
) -> None:
    """Chat with a running server."""
    check_environment(ServerSettings.model_fields)
    if system is not None and not is_utf8(system):
        raise ConfigError("system", system[:40], "is not valid UTF-8")
    given = {"temperature": temperature, "max_tokens": max_tokens}
    options = {name: value for name, value in given.items() if value is not None}
    conversation = Conversation(system, options)
    timeout = httpx.Timeout(None, connect=5)
    # As the SDKs have it, whose base URL ends with /v1.
    base = url.rstrip("/").removesuffix("/v1")
    with httpx.Client(base_url=base, timeout=timeout, headers=_authorization(api_key)) as client:
        stderr.print(f"{_model_name(client, url)} — {_HINT}", style="dim")
        edit_lines(COMMANDS)
        has_failed = _converse(client, conversation)
    if has_failed and not sys.stdin.isatty():
        raise typer.Exit(1)


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


def _model_name(client: httpx.Client, url: str) -> str:
    """Asks the server for the name of its model.

    Raises:
        ConfigError: there is no server, or it doesn't take the key.
    """
    try:
        response = client.get("/v1/models")
        if response.status_code == 401:
            given = "…" if "authorization" in client.headers else None  # keys are never shown
            raise ConfigError("api_key", given, _refusal(response))
        return str(response.raise_for_status().json()["data"][0]["id"])
    except httpx.HTTPStatusError as error:
        reason = f"what answers there is no OpenAI-compatible server: {_refusal(error.response)}"
        raise ConfigError("url", url, reason) from None
    except (httpx.HTTPError, ValueError, LookupError) as error:
        raise ConfigError("url", url, f"no server answers there: {error}") from None


def _converse(client: httpx.Client, conversation: Conversation) -> bool:
    """Answers line by line until there are no more; whether one could not be."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # what is no UTF-8 is refused line by line
    prompt = "> " if sys.stdin.isatty() else ""
    has_failed = False
    while True:
        try:
            line = input(prompt).strip()
        except (EOFError, KeyboardInterrupt):
            return has_failed
        if line == "/quit":
            return has_failed
        try:
            if not is_utf8(line):
                raise CommandError("this line is not valid UTF-8")
            if line == "/retry":
                line = conversation.take_back()
            elif line.startswith("/"):
                stderr.print(conversation.command(line), style="dim", markup=False)
                continue
            if line:
                conversation.add(line, _answer(client, conversation.body(line)))
        except (ChatError, CommandError) as error:
            has_failed = True
            stderr.print(str(error), style="red", markup=False)


def _answer(client: httpx.Client, body: dict[str, Any]) -> str:
    """Streams one answer to the terminal and returns it; Ctrl-C keeps what came."""
    text, num_tokens, watch, thinks = "", 0, Stopwatch(), False
    speculation = ""
    with closing(_events(client, body)) as events:
        try:
            for event in events:
                num_tokens = (event.get("usage") or {}).get("completion_tokens", num_tokens)
                speculation = _speculation(event.get("speculation")) or speculation
                for choice in event["choices"]:
                    watch.saw_token()
                    if thought := choice["delta"].get("reasoning_content"):
                        write_thinking(thought)
                        thinks = True
                    piece = choice["delta"].get("content") or ""
                    if piece and thinks:
                        write_thinking("\n\n")
                        thinks = False
                    text += piece
                    write_answer(piece)
        except KeyboardInterrupt:
            pass
    write_answer("\n")
    summary = watch.summary(num_tokens) + speculation if num_tokens else "stopped"
    stderr.print(summary, style="dim")
    return text


def _speculation(report: dict[str, Any] | None) -> str:
    """What speculation did for an answer; other servers say nothing of it."""
    if not report:
        return ""
    return describe_speculation(
        report["tokens_per_step"],
        report["drafted_tokens"],
        report["accepted_tokens"],
        report["leaves_accepted"],
    )


def _events(client: httpx.Client, body: dict[str, Any]) -> Generator[dict[str, Any], None, None]:
    """The stream's JSON events.

    Raises:
        ChatError: the server's own message, or that the connection broke.
    """
    body = body | {"stream": True, "stream_options": {"include_usage": True}}
    try:
        with client.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.is_error:
                response.read()
                raise ChatError(_refusal(response))
            for line in response.iter_lines():
                data = line.removeprefix("data: ")
                if data == line or data == "[DONE]":
                    continue  # a comment, a blank line, or the end
                event = json.loads(data)
                if "error" in event:
                    raise ChatError(event["error"]["message"])
                yield event
    except httpx.HTTPError as error:
        raise ChatError(f"the connection broke: {error}") from None


def _refusal(response: httpx.Response) -> str:
    """The server's own message; of an answer in another form (a proxy's page) the status line."""
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return f"{response.status_code} {response.reason_phrase}".rstrip()
