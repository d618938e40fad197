"""A conversation in a terminal: what was said, what requests ask for, and the commands that change
both. Knows no network.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Message = dict[str, str]

HELP = """\
/new               start over
/retry             ask the last question again
/system [TEXT]     set the system prompt, or leave it out; starts over
/temperature [X]   0 to 2, 0 is greedy; nothing: the server's own
/max-tokens [N]    longest answer; nothing: no limit
/save FILE         write the conversation as JSON lines, as glidecape eval reads it
/help              this list
/quit, Ctrl-D      leave; Ctrl-C stops an answer"""
COMMANDS = tuple(line.split()[0].rstrip(",") for line in HELP.splitlines())


class CommandError(ValueError):
    """A command can't be carried out; the text is for the user."""


@dataclass(slots=True)
class Conversation:
    """Mutable: each line that is typed changes it."""

    system: str | None = None
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    """Fields of a request beside its messages."""
    turns: list[Message] = field(default_factory=list[Message])
    """The user's and the assistant's, in turn."""
    asked: str | None = None
    """The last question, also where its answer failed."""
    _place: int = 0
    """Where that question is in `turns`, or will be once it is answered."""

    def ask(self, question: str) -> dict[str, Any]:
        """A request for the answer to one more question."""
        self.asked, self._place = question, len(self.turns)
        return self._body(question)

    def ask_again(self) -> dict[str, Any]:
        """A request for another answer to the last question. One that it has stays until `answer`.

        Raises:
            CommandError: nothing has been asked.
        """
        if self.asked is None:
            raise CommandError("nothing has been asked yet")
        return self._body(self.asked)

    def answer(self, text: str) -> None:
        """Keeps the answer to the last question, in place of one that it has."""
        asked = {"role": "user", "content": self.asked or ""}
        self.turns[self._place :] = [asked, {"role": "assistant", "content": text}]

    def _body(self, question: str) -> dict[str, Any]:
        start = [{"role": "system", "content": self.system}] if self.system else []
        earlier = self.turns[: self._place]
        asked = {"role": "user", "content": question}
        return {"messages": [*start, *earlier, asked], **self.options}

    def _start_over(self) -> None:
        self.turns.clear()
        self.asked, self._place = None, 0

    def command(self, line: str) -> str:
        """Carries out a line that begins with a slash, and returns what to show the user.

        Raises:
            CommandError: it can't be carried out.
        """
        name, _, value = line.partition(" ")
        value = value.strip()
        match name:
            case "/help":
                return HELP
            case "/new":
                self._start_over()
                return "a new conversation"
            case "/system":
                self.system = value or None
                self._start_over()
                return "a new conversation" + (f"; system prompt: {value}" if value else "")
            case "/temperature":
                return self._set("temperature", value, float, 0, 2)
            case "/max-tokens":
                return self._set("max_tokens", value, int, 1, 10**9)
            case "/save":
                return self._save(value)
            case _:
                raise CommandError(f"{name} is no command; /help lists them")

    def _set(
        self, name: str, value: str, kind: type[int] | type[float], least: int, most: int
    ) -> str:
        if not value:
            self.options.pop(name, None)
            return f"{name}: the server's own"
        try:
            number = kind(value)
        except ValueError:
            raise CommandError(f"{value!r} is no number") from None
        if not least <= number <= most:
            raise CommandError(f"{name} is to be {least} to {most}")
        self.options[name] = number
        return f"{name}: {number}"

    def _save(self, name: str) -> str:
        if not name:
            raise CommandError("/save needs the name of a file")
        start = [{"role": "system", "content": self.system}] if self.system else []
        line = json.dumps({"messages": [*start, *self.turns]}, ensure_ascii=False)
        try:
            with Path(name).expanduser().open("x", encoding="utf-8") as file:
                file.write(line + "\n")
        except (OSError, ValueError) as error:
            raise CommandError(f"{name}: {getattr(error, 'strerror', None) or error}") from None
        return f"saved in {name}"
