"""Reads one section of calls: what stands between the opener and the closer of a model's markup."""

from collections.abc import Set
from dataclasses import dataclass
from typing import Final, Literal

from server.text.tools.call_reader import BARE_MARKS, BareCall, CallObject, CallReader
from server.text.tools.events import EventSink
from server.text.tools.json_scanner import WHITESPACE

OBJECT_OPENER: Final = "{"
"""The opener of a call without a marker: the call itself begins."""

LIST_OPENER: Final = "["
"""The opener of a list of calls without a marker."""

BARE_OPENERS: Final = frozenset((OBJECT_OPENER, LIST_OPENER))
"""Openers that are a part of what they open."""


@dataclass(frozen=True, slots=True)
class Markup:
    """The marks by which calls differ from text."""

    openers: tuple[str, ...]
    """Each begins a section. No one of them begins with another."""
    closer: str | None = None
    """Ends a section; None where it ends with its call, or with its list of calls."""
    separators: str = ""
    """Characters between two sections that are neither text nor calls, besides white space."""
    bare_names: bool = False
    """A call may also be written `name{…}`; see `BareCall`."""

    @property
    def marks(self) -> tuple[str, ...]:
        """Everything in it that a tokenizer may have as a special token."""
        closer = () if self.closer is None else (self.closer,)
        return (*self.openers, *closer, *(BARE_MARKS if self.bare_names else ()))


LEADING_KEYS: Final = frozenset(("name", "type"))
"""First keys of a call that has no marker."""

Verdict = Literal["more", "end", "outside", "bad"]
"""What a character meant: the section goes on; it ended with the character; it ended before the
text in `unclaimed`, with which the next one may begin; or it was no section, and all its text is
content."""

_Mode = Literal["open", "call", "between", "closer", "rest"]


class CallSection:
    """Reads one section. Calls go to the sink as soon as they are certain.

    Where a section goes wrong after that, its calls stay calls and nothing is dropped: arguments
    that are open get the rest up to the closer, else the rest is content. A marker that opens a
    section ends the one before it, whose closer the model left out.

    Args:
        opener: The one it began with.
        names: The functions that can be called.
        is_enforced: A grammar makes sure that after a call only another one follows in here.
    """

    def __init__(
        self, markup: Markup, opener: str, names: Set[str], sink: EventSink, *, is_enforced: bool
    ) -> None:
        self._is_enforced = is_enforced
        self._closer = markup.closer
        closer = () if markup.closer is None else (markup.closer,)
        self._ends = (*closer, *(each for each in markup.openers if each not in BARE_OPENERS))
        """Marks behind which, or in front of which, the section has ended."""
        self._bare_names = markup.bare_names
        self._leading_keys = LEADING_KEYS if opener in BARE_OPENERS else None
        self._names = names
        self._sink = sink
        self._mode: _Mode = "open"
        self._list: Literal["none", "open", "closed"] = "none"
        self._reader: CallReader | None = None
        self._is_handed_out = False
        """The sink knows of the reader's call."""
        self._matched = ""
        """What was read of a mark that ends the section, in modes `closer` and `rest`."""
        self._unclaimed: list[str] = []
        self.num_calls = 0

    @property
    def unclaimed(self) -> str:
        """Text since the last certain part of a call; it is in no event yet."""
        return "".join(self._unclaimed)

    @property
    def is_in_call(self) -> bool:
        """Whether what was read ends within a call that was handed out."""
        return self._is_handed_out and self._reader is not None and self._mode in ("call", "rest")

    def push(self, char: str) -> Verdict:
        if self._mode == "rest":
            return self._push_rest(char)
        self._unclaimed.append(char)
        match self._mode:
            case "open":
                verdict = self._push_open(char)
            case "call":
                verdict = self._push_call(char)
            case "between":
                verdict = self._push_between(char)
            case "closer":
                verdict = self._push_closer(char)
        return self._give_up(char) if verdict == "bad" and self.num_calls else verdict

    def finish(self) -> bool:
        """The text ended here; False if all of this section was content."""
        if self._mode == "rest":
            self._release(self._matched)
        elif self._mode == "call" and not self._is_handed_out:
            if not self.num_calls:
                return False
            if not self._is_enforced:
                self._sink.content(self.unclaimed)
        return bool(self.num_calls) or self._list == "closed"

    def _push_open(self, char: str) -> Verdict:
        """Reads the beginning of a call, or of a list of them."""
        if char in WHITESPACE:
            return "more"
        if char == "[" and self._list == "none" and not self.num_calls:
            self._list = "open"
            return "more"
        if char == "]" and self._list == "open" and (self._leading_keys is None or self.num_calls):
            return self._end_list()
        if char == "{":
            self._reader = CallObject(self._names, self._leading_keys)
        elif self._bare_names and self._list == "none":
            self._reader = BareCall(self._names)
        else:
            return "bad"
        self._mode, self._is_handed_out = "call", False
        return self._push_call(char)

    def _push_call(self, char: str) -> Verdict:
        reader = self._reader
        if reader is None or not reader.push(char):
            return "bad"
        self._hand_out(reader)
        if not reader.is_done:
            return "more"
        self._reader, self._mode, self._unclaimed = None, "between", []
        return "end" if self._closer is None and self._list == "none" else "more"

    def _hand_out(self, reader: CallReader) -> None:
        if reader.announced is None:
            return
        if not self._is_handed_out:
            self._sink.start_call(reader.announced)
            self.num_calls += 1
            self._is_handed_out = True
        arguments = reader.take_arguments()
        if arguments:
            self._sink.arguments(arguments)
            self._unclaimed.clear()

    def _push_between(self, char: str) -> Verdict:
        """Reads what follows a call or a list of them."""
        if char in WHITESPACE:
            return "more"
        if self._list == "open":
            if char == ",":
                self._mode = "open"
                return "more"
            return self._end_list() if char == "]" else "bad"
        if char == "{" and self._list == "none":
            return self._push_open(char)
        self._mode, self._matched = "closer", ""
        return self._push_closer(char)

    def _end_list(self) -> Verdict:
        self._list, self._mode, self._unclaimed = "closed", "between", []
        return "end" if self._closer is None else "more"

    def _push_closer(self, char: str) -> Verdict:
        self._matched += char
        if self._matched in self._ends:
            return "end" if self._matched == self._closer else "outside"
        return "more" if any(end.startswith(self._matched) for end in self._ends) else "bad"

    def _give_up(self, char: str) -> Verdict:
        """What was read is no longer what it should be, but a call was handed out before."""
        in_arguments = self._reader is not None and self._reader.in_arguments
        if self._closer is None and not in_arguments:
            return "outside"
        rest = char if in_arguments else self.unclaimed
        if not in_arguments:
            self._reader = None
        self._mode, self._matched, self._unclaimed = "rest", "", []
        for index, each in enumerate(rest):
            if self._push_rest(each) != "more":
                self._unclaimed += rest[index + 1 :]
                return "outside" if self._unclaimed else "end"
        return "more"

    def _push_rest(self, char: str) -> Verdict:
        """Passes everything on, up to a mark that ends the section."""
        text = self._matched + char
        self._matched = longest_beginning(text, self._ends)
        self._release(text[: len(text) - len(self._matched)])
        if self._matched not in self._ends:
            return "more"
        mark, self._matched = self._matched, ""
        if mark == self._closer:
            return "end"
        self._unclaimed = [mark]
        return "outside"

    def _release(self, text: str) -> None:
        if self._reader is not None:
            self._sink.arguments(text)
        else:
            self._sink.content(text)


def longest_beginning(text: str, strings: tuple[str, ...]) -> str:
    """The longest end of the text with which one of the strings begins; the whole string counts.

    ("abc <to", ("<tool_call>",)) → "<to"
    """
    if not any(string[0] in text for string in strings):
        return ""
    for length in range(min(len(text), max(map(len, strings))), 0, -1):
        end = text[len(text) - length :]
        if any(string.startswith(end) for string in strings):
            return end
    return ""
