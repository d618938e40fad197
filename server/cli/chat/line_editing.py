"""Line editing in a terminal: arrow keys, a history that is kept, Tab for commands. By readline,
through the standard library; without it lines are read as they come.
"""

import atexit
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_MOST_LINES = 1000


def history_file() -> Path:
    """Where typed lines are kept between sessions. Only the user can read the file."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "glidecape" / "chat_history"


def edit_lines(commands: Sequence[str]) -> None:
    """Gives `input()` editing and a history, where there is a terminal.

    Args:
        commands: completed by Tab.
    """
    if not sys.stdin.isatty():
        return
    try:
        import readline
    except ImportError:  # Windows
        return

    def complete(text: str, index: int) -> str | None:
        fitting = [f"{command} " for command in commands if command.startswith(text)]
        return fitting[index] if text.startswith("/") and index < len(fitting) else None

    def keep() -> None:
        with suppress(OSError):  # a home that can't be written costs the history, nothing else
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
            os.close(descriptor)
            readline.write_history_file(path)

    path = history_file()
    readline.set_completer(complete)
    readline.set_completer_delims(" ")  # a slash is part of a command
    readline.parse_and_bind("tab: complete")
    readline.set_history_length(_MOST_LINES)
    with suppress(OSError):
        readline.read_history_file(path)
    atexit.register(keep)
