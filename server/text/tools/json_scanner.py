"""Where one JSON value ends, read character by character.

Not a parser: keeps no values. Strict about structure and numbers, and lenient inside of strings,
where models write raw line breaks and needless escapes: only quote and backslash count.
"""

import re
from typing import Final, Literal

State = Literal[
    "value",  # a value must begin
    "first_item",  # a value, or the end of an empty list
    "first_key",  # a key, or the end of an empty object
    "key",
    "colon",
    "after_value",
    "string",
    "escape",  # after a backslash
    "scalar",  # in a number, true, false or null
]

WHITESPACE: Final = " \t\n\r"
_SCALAR_CHARS: Final = frozenset("+-.0123456789abcdefghijklmnopqrstuvwxyzE")
_SCALAR: Final = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?|true|false|null")


class JsonScanner:
    """Follows one value. After `push` returned False, or once it is done, it must not be used."""

    def __init__(self) -> None:
        self.state: State = "value"
        self._open: list[str] = []
        self._is_key = False
        self._scalar: list[str] = []

    @property
    def depth(self) -> int:
        """Objects and lists that are open."""
        return len(self._open)

    @property
    def is_done(self) -> bool:
        """The value is complete. A number or word at the top never is: more of it may follow."""
        return not self._open and self.state == "after_value"

    def push(self, char: str) -> bool:
        """Reads one character; False if no valid JSON goes on with it."""
        if self.state == "string":
            self._push_in_string(char)
            return True
        if self.state == "escape":
            self.state = "string"
            return True
        if self.state == "scalar":
            if char in _SCALAR_CHARS:
                self._scalar.append(char)
                return True
            if not _SCALAR.fullmatch("".join(self._scalar)):
                return False
            self.state = "after_value"  # which is where this character belongs
        return char in WHITESPACE or self._push_structure(char)

    def _push_in_string(self, char: str) -> None:
        if char == '"':
            self.state = "colon" if self._is_key else "after_value"
        elif char == "\\":
            self.state = "escape"

    def _push_structure(self, char: str) -> bool:
        match self.state:
            case "first_item" if char == "]":
                return self._close("[")
            case "value" | "first_item":
                return self._begin_value(char)
            case "first_key" if char == "}":
                return self._close("{")
            case "first_key" | "key":
                self._is_key, self.state = True, "string"
                return char == '"'
            case "colon":
                self.state = "value"
                return char == ":"
            case _:
                return self._after_value(char)

    def _begin_value(self, char: str) -> bool:
        if char in "{[":
            self._open.append(char)
            self.state = "first_key" if char == "{" else "first_item"
        elif char == '"':
            self._is_key, self.state = False, "string"
        else:
            self._scalar, self.state = [char], "scalar"
            return char in _SCALAR_CHARS
        return True

    def _after_value(self, char: str) -> bool:
        if not self._open:
            return False
        if char == ",":
            self.state = "key" if self._open[-1] == "{" else "value"
            return True
        return char in "}]" and self._close("{" if char == "}" else "[")

    def _close(self, opener: str) -> bool:
        if self._open[-1] != opener:
            return False
        self._open.pop()
        self.state = "after_value"
        return True


def has_whole_value(text: str) -> bool:
    """Whether the text begins with an object, list or string that is complete."""
    scanner = JsonScanner()
    for char in text:
        if not scanner.push(char):
            return False
        if scanner.is_done:
            return True
    return False
