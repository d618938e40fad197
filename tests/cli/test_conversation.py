"""The chat command's conversation and its commands, and its lines in a terminal."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from server.cli.chat.conversation import COMMANDS, HELP, CommandError, Conversation
from tests.doubles import PlainTemplate
from weights.train.text.prompts import read_prompts

DONE = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


def talked(**given: object) -> Conversation:
    conversation = Conversation(**given)  # pyright: ignore[reportArgumentType]
    conversation.ask("a")
    conversation.answer("b")
    return conversation


def test_a_request_has_all_that_was_said() -> None:
    body = talked(system="short", options={"temperature": 0.5}).ask("c")
    system, question = {"role": "system", "content": "short"}, {"role": "user", "content": "c"}
    assert body == {"messages": [system, *DONE, question], "temperature": 0.5}
    assert Conversation().ask("c") == {"messages": [question]}


def test_starting_over() -> None:
    conversation = talked(system="short")
    for line, system in (("/new", "short"), ("/system  be kind ", "be kind"), ("/system", None)):
        conversation.ask("a")
        conversation.answer("b")
        assert "a new conversation" in conversation.command(line)
        assert (conversation.turns, conversation.system) == ([], system)
        with pytest.raises(CommandError, match="nothing has been asked"):
            conversation.ask_again()


def test_another_answer_takes_the_place_of_the_first() -> None:
    conversation = talked()
    for text in ("c", "d"):
        assert conversation.ask_again() == {"messages": DONE[:1]}
        conversation.answer(text)
        assert conversation.turns == [DONE[0], {"role": "assistant", "content": text}]


def test_asking_again_after_an_answer_that_failed() -> None:
    """It is that question that is asked again, and what was said before it stays."""
    conversation = talked()
    question = {"role": "user", "content": "c"}
    conversation.ask("c")
    for _ in range(2):
        assert conversation.ask_again() == {"messages": [*DONE, question]}
        assert conversation.turns == DONE
    conversation.answer("d")
    assert conversation.turns == [*DONE, question, {"role": "assistant", "content": "d"}]


def test_another_answer_that_fails_leaves_the_first() -> None:
    conversation = talked()
    for _ in range(2):
        assert conversation.ask_again() == {"messages": DONE[:1]}
        assert conversation.turns == DONE
    next_one = {"role": "user", "content": "c"}
    assert conversation.ask("c") == {"messages": [*DONE, next_one]}


def test_settings() -> None:
    conversation = Conversation()
    conversation.command("/temperature 0.5")
    conversation.command("/max-tokens 7")
    assert conversation.options == {"temperature": 0.5, "max_tokens": 7}
    conversation.command("/temperature")
    conversation.command("/max-tokens ")
    assert conversation.options == {}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("/nonsense", "/nonsense is no command; /help lists them"),
        ("/", "/ is no command"),
        ("/temperature hot", "'hot' is no number"),
        ("/temperature 3", "temperature is to be 0 to 2"),
        ("/temperature nan", "temperature is to be 0 to 2"),
        ("/max-tokens 1.5", "'1.5' is no number"),
        ("/max-tokens 0", "max_tokens is to be 1"),
        ("/save", "/save needs the name of a file"),
        ("/save /no/such/folder/x", "No such file or directory"),
        ("/save a\0b", "null byte"),
    ],
)
def test_what_can_not_be_done_is_said(line: str, reason: str) -> None:
    with pytest.raises(CommandError, match=reason):
        talked().command(line)


def test_what_is_saved_can_be_evaluated_and_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "talk.jsonl"
    assert talked().command(f"/save {path}") == f"saved in {path}"
    assert json.loads(path.read_text()) == {"messages": DONE}
    assert len(list(read_prompts(path, PlainTemplate()))) == 1
    with pytest.raises(CommandError, match="File exists"):
        talked().command(f"/save {path}")


def test_help_lists_every_command() -> None:
    assert set(COMMANDS) >= {"/new", "/retry", "/system", "/temperature", "/max-tokens", "/quit"}
    assert Conversation().command("/help") == HELP


TALK = """
from server.cli.chat.conversation import COMMANDS
from server.cli.chat.line_editing import edit_lines
edit_lines(COMMANDS)
for _ in range(2):
    print("GOT", repr(input("> ")), flush=True)
"""


def typed(keys: bytes, state: Path) -> str:
    """What a process prints that reads two lines from a terminal."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"XDG_STATE_HOME": str(state), "TERM": "xterm"}
    process = subprocess.Popen(
        [sys.executable, "-c", TALK], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    os.write(ours, keys)
    printed = b""
    try:
        while piece := os.read(ours, 4096):
            printed += piece
    except OSError:  # the terminal's other side is closed
        pass
    process.wait(timeout=60)
    os.close(ours)
    return printed.decode()


def test_lines_are_edited_and_remembered(tmp_path: Path) -> None:
    """Left arrows, Tab, and the up arrow in a later call."""
    pytest.importorskip("readline")
    first = typed(b"hllo\x1b[D\x1b[D\x1b[De\r/te\t0.5\r", tmp_path)
    assert "GOT 'hello'" in first
    assert "GOT '/temperature 0.5'" in first
    assert "GOT 'hello'" in typed(b"\x1b[A\x1b[A\rx\r", tmp_path)
    (history,) = tmp_path.rglob("chat_history")
    assert history.stat().st_mode & 0o077 == 0
