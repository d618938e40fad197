"""One function call, read character by character: `{"name": …, "arguments": {…}}`."""

import json
from collections.abc import Set
from typing import Any, Final, Literal, Protocol

from server.text.tools.json_scanner import JsonScanner

BARE_MARKS: Final = ("[CALL_ID]", "[ARGS]")
"""May stand between a name and its arguments where a call is no object."""

_ARGUMENTS_KEYS: Final = frozenset(("arguments", "parameters"))


class CallReader(Protocol):
    """Reads one call. Its name is `announced` once it is certain to be a call; arguments are
    handed out as they come from then on."""

    @property
    def announced(self) -> str | None: ...

    @property
    def is_done(self) -> bool: ...

    @property
    def in_arguments(self) -> bool:
        """Whether the arguments have begun and not ended."""
        ...

    def push(self, char: str) -> bool:
        """Reads one character; False if it can't belong to the call."""
        ...

    def take_arguments(self) -> str:
        """What is known of the arguments since the last time; nothing before the call is
        announced."""
        ...


class CallObject:
    """A call as a JSON object with the keys `name` and `arguments` or `parameters`, in any order;
    other keys are passed over. Arguments that are a string with JSON in it are unpacked, and
    missing ones are `{}`.

    Args:
        names: The functions'; an object with another name is no call.
        leading_keys: What the first key may be where calls have no marker, so that other objects
            are recognised early. Then arguments must not be missing, and nothing else in front of
            them may be an object or a list. None allows any key.
    """

    def __init__(self, names: Set[str], leading_keys: Set[str] | None = None) -> None:
        self._names = names
        self._leading_keys = leading_keys
        self._scanner = JsonScanner()
        self._reading: Literal["key", "value"] | None = None
        self._captured: list[str] = []
        self._key: str | None = None
        self._name: str | None = None
        self._arguments: Literal["none", "open", "complete"] = "none"
        self._pending: list[str] = []
        """Arguments that were not handed out yet."""
        self.announced: str | None = None

    @property
    def is_done(self) -> bool:
        return self._scanner.is_done

    @property
    def in_arguments(self) -> bool:
        return self._arguments == "open"

    def push(self, char: str) -> bool:
        before, depth = self._scanner.state, self._scanner.depth
        if not self._scanner.push(char):
            return False
        state = self._scanner.state
        if depth == 1 and before in ("first_key", "key") and state == "string":
            self._reading, self._captured = "key", []
        elif depth == 1 and before == "value" and state != "value":
            self._reading, self._captured = "value", []
            if not self._begin_value(char):
                return False
        elif depth == 1 and before == "scalar" and state != "scalar" and not self._end_value():
            return False
        if self._reading is not None and not self._read(char):
            return False
        return self._update_announced()

    def take_arguments(self) -> str:
        if self.announced is None:
            return ""
        text = "".join(self._pending)
        self._pending.clear()
        return text

    def _begins_arguments(self) -> bool:
        return self._key in _ARGUMENTS_KEYS and self._arguments == "none"

    def _begin_value(self, char: str) -> bool:
        """Whether a value may begin like this; arguments are an object, a string with one in it,
        or null."""
        if self._begins_arguments():
            if char == "{":
                self._arguments = "open"
            return char in '{"n'
        # Without a marker, objects in a long text within each other would each be read to the
        # text's end: the square of its length.
        return self._leading_keys is None or self.announced is not None or char not in "{["

    def _read(self, char: str) -> bool:
        """A character of a key or value at the top, its quotes and braces included."""
        if self._reading == "value" and self.in_arguments:
            self._pending.append(char)
        else:
            self._captured.append(char)
        if self._scanner.depth != 1:
            return True
        if self._reading == "key" and self._scanner.state == "colon":
            return self._end_key()
        if self._reading == "value" and self._scanner.state == "after_value":
            return self._end_value()
        return True

    def _end_key(self) -> bool:
        is_first = self._key is None
        self._key = _string("".join(self._captured))
        self._reading = None
        if self._key is None:
            return False
        return not is_first or self._leading_keys is None or self._key in self._leading_keys

    def _end_value(self) -> bool:
        self._reading = None
        if self.in_arguments:
            self._arguments = "complete"
        elif self._begins_arguments():
            unpacked = _unpacked("".join(self._captured))
            if unpacked is None:
                return False
            self._arguments = "complete"
            self._pending.append(unpacked)
        elif self._key == "name" and self._name is None:
            self._name = _string("".join(self._captured))
            return self._name in self._names
        return True

    def _update_announced(self) -> bool:
        if self.is_done:
            if self._name is None:
                return False
            if self._arguments == "none":
                if self._leading_keys is not None:
                    return False
                self._arguments = "complete"
                self._pending.append("{}")
        if self._arguments != "none":
            self.announced = self._name
        return True


class BareCall:
    """A call as a name and its arguments: `name[ARGS]{…}`, with `[CALL_ID]…` and `[ARGS]` optional.

    Args:
        names: The functions'; another name is no call.
    """

    _MAX_HEAD = 200
    """Longest that name and marks may be."""

    def __init__(self, names: Set[str]) -> None:
        self._names = names
        self._head = ""
        self._scanner = JsonScanner()
        self._pending: list[str] = []
        self.announced: str | None = None

    @property
    def is_done(self) -> bool:
        return self._scanner.is_done

    @property
    def in_arguments(self) -> bool:
        return self.announced is not None and not self.is_done

    def push(self, char: str) -> bool:
        if self.announced is None:
            if char != "{":
                self._head += char
                return len(self._head) <= self._MAX_HEAD
            name = self._head.partition("[")[0].strip()
            if name not in self._names:
                return False
            self.announced = name
        if not self._scanner.push(char):
            return False
        self._pending.append(char)
        return True

    def take_arguments(self) -> str:
        text = "".join(self._pending)
        self._pending.clear()
        return text


def _loads(text: str) -> Any:
    """A JSON value; None if it is none."""
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None


def _string(text: str) -> str | None:
    value = _loads(text)
    return value if isinstance(value, str) else None


def _unpacked(text: str) -> str | None:
    """Arguments that are no object themselves → the object's text; None if there is none."""
    if text == "null":
        return "{}"
    inner = _string(text)
    return inner if inner is not None and isinstance(_loads(inner), dict) else None
