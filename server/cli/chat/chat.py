"""`glidecape chat`: a terminal client of a running server."""

import io
import sys
from contextlib import closing
from typing import Annotated, Any

import httpx
import typer

from server.cli.chat.client import ChatError, connect, model_name, pieces
from server.cli.chat.conversation import COMMANDS, CommandError, Conversation
from server.cli.chat.line_editing import edit_lines
from server.cli.terminal import (
    Stopwatch,
    stderr,
    write_answer,
    write_thinking,
)
from server.config import ServerSettings, is_utf8
from server.errors import ConfigError
from server.setting_sources import check_environment

_HINT = "/help lists the commands, Ctrl-D leaves, Ctrl-C stops an answer"


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
    with connect(url, api_key) as client:
        stderr.print(f"{model_name(client, url)} — {_HINT}", style="dim")
        edit_lines(COMMANDS)
        has_failed = _converse(client, conversation)
    if has_failed and not sys.stdin.isatty():
        raise typer.Exit(1)


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
                _ask(client, conversation, conversation.ask_again())
            elif line.startswith("/"):
                stderr.print(conversation.command(line), style="dim", markup=False)
            elif line:
                _ask(client, conversation, conversation.ask(line))
        except (ChatError, CommandError) as error:
            has_failed = True
            stderr.print(str(error), style="red", markup=False)


def _ask(client: httpx.Client, conversation: Conversation, body: dict[str, Any]) -> None:
    """Shows an answer and keeps it. What was said stays as it is where there is none."""
    answer = _answer(client, body)
    if answer is not None:
        conversation.answer(answer)


def _answer(client: httpx.Client, body: dict[str, Any]) -> str | None:
    """Streams one answer to the terminal and returns it; Ctrl-C keeps what came, None if nothing
    did."""
    text, watch, thinks = "", Stopwatch(), False
    num_tokens: int | None = None
    speculation, is_stopped = "", False
    with closing(pieces(client, body)) as stream:
        try:
            for piece in stream:
                num_tokens = num_tokens if piece.num_tokens is None else piece.num_tokens
                speculation = piece.speculation or speculation
                if piece.has_choice:
                    watch.saw_token()
                if piece.thought:
                    write_thinking(piece.thought)
                    thinks = True
                if piece.text and thinks:
                    write_thinking("\n\n")
                    thinks = False
                text += piece.text
                write_answer(piece.text)
        except KeyboardInterrupt:
            is_stopped = True
    write_answer("\n")
    # Servers count at the end: an answer that is stopped has no figures.
    uncounted = "stopped" if is_stopped else "tokens not counted"
    summary = uncounted if num_tokens is None else watch.summary(num_tokens) + speculation
    stderr.print(summary, style="dim")
    return None if is_stopped and not text else text
