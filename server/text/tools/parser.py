"""An answer's text → content and function calls, whatever pieces the text comes in."""

import re
from collections.abc import Set
from functools import cache
from typing import Literal

from server.text.tools.events import AnswerEvent, ContentCount, EventSink
from server.text.tools.json_scanner import WHITESPACE
from server.text.tools.section import BARE_OPENERS, CallSection, Markup

Enforced = Literal["nothing", "calls", "only_calls"]
"""What a grammar ensures: nothing, that whatever begins like a call is one, or that the answer is
calls alone."""


class _Pieces:
    """A text that grows. As one string it would be copied with each piece."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def add(self, text: str) -> None:
        self._pieces.append(text)
        self._length += len(text)

    def text(self) -> str:
        return "".join(self._pieces)

    def take(self) -> str:
        text, self._length = self.text(), 0
        self._pieces.clear()
        return text


class ToolParser:
    """Reads one answer. Its events are the same however the text is cut.

    Every character ends up in content or arguments, except the markup of calls and white space
    between markup and markup, or between markup and an end of the answer. What looks like a call
    and isn't (broken JSON, a name that no function has) is content, its markup included; but once
    a call's name was handed out it stays a call, and its arguments are what the model wrote.

    Where a grammar enforces calls, an answer that breaks off in the markup of one (by `max_tokens`)
    has the beginning of a call there and no content: it is dropped.

    Args:
        names: The functions that can be called.
        trigger: The text with which enforced calls begin.
    """

    def __init__(
        self, markup: Markup, names: Set[str], trigger: str, enforced: Enforced = "nothing"
    ) -> None:
        self._markup = markup
        self._names = names
        self._trigger = trigger
        self._enforced: Enforced = enforced
        self._sink = EventSink(takes_content=enforced != "only_calls")
        self._find_opener = _finder(markup.openers)
        self._text = ""
        """What is being read; empty after a push."""
        self._num_read = 0
        """Characters of it."""
        self._section: CallSection | None = None
        self._begin = 0
        """Where in the text the section begins, or goes on, while it has no call."""
        self._before = _Pieces()
        """What of the section was in earlier texts, while it has no call."""
        self._opener = ""
        """What may be the beginning of an opener."""
        self._layout: _Pieces | None = _Pieces()
        """White space since the last markup or the beginning; None once text followed."""
        self._had_markup = False
        self.ends_in_call = False
        """Whether the answer, once it has ended, ends within a call."""

    @property
    def marks(self) -> tuple[str, ...]:
        """Texts that must reach the parser even where they are special tokens."""
        return self._markup.marks

    @property
    def num_calls(self) -> int:
        """Calls found so far."""
        return self._sink.num_calls

    @property
    def content_count(self) -> ContentCount:
        """Content found so far."""
        return self._sink.content_count

    @property
    def num_held(self) -> int:
        """Characters at the end of what was read of which it isn't known what they are."""
        return len(self._layout or "") + len(self._opener) + len(self._before)

    def is_answer(self, begin: int, end: int) -> bool:
        """Whether some of these characters of the text may be content; here all may."""
        del begin, end
        return True

    def push(self, text: str) -> list[AnswerEvent]:
        """Reads more text."""
        self.read(text)
        return self._sink.take()

    def read(self, text: str) -> bool:
        """Reads more text, whose events the next `push` or `finish` hands out; whether it led to
        any, or is known to be markup. Else what it is remains undecided."""
        before = self._sink.num_changes
        self._text, self._opener = self._opener + text, ""
        self._drain()
        is_open = self._section is not None and not self._section.num_calls
        is_held = bool(self._opener or self._layout or is_open)
        return not is_held or self._sink.num_changes > before

    def finish(self) -> list[AnswerEvent]:
        """The answer ended: what was held back can't become a call any more."""
        self.ends_in_call = self._section is not None and self._section.is_in_call
        while self._section is not None:
            if self._section.finish() or self._is_enforced_call():
                self._end_section()
            else:
                self._roll_back()
                self._drain()
        self._release(self._opener)
        self._opener = ""
        if self._layout and not self._had_markup:
            self._sink.content(self._layout.text())
        self._layout = _Pieces()
        return self._sink.take()

    def _is_enforced_call(self) -> bool:
        """Whether the open section, which has no call so far, would have become one."""
        return self._enforced != "nothing" and self._before.text().startswith(self._trigger)

    def _drain(self) -> None:
        while self._num_read < len(self._text):
            if self._section is None:
                self._read_content()
            else:
                self._read_section(self._section)
        if self._section is not None and not self._section.num_calls:
            self._before.add(self._text[self._begin :])
        self._text, self._num_read, self._begin = "", 0, 0

    def _read_content(self) -> None:
        """Reads up to the next opener, or to what may be the beginning of one."""
        found = self._find_opener.search(self._text, self._num_read)
        begin = len(self._text) if found is None else found.start()
        self._release(self._text[self._num_read : begin])
        self._num_read = begin
        if found is None:
            return
        self._num_read = found.end()
        if found[0] in self._markup.openers:
            self._begin_section(begin, found[0])
        else:
            self._opener = found[0]

    def _begin_section(self, begin: int, opener: str) -> None:
        self._begin = begin
        self._section = CallSection(
            self._markup,
            opener,
            self._names,
            self._sink,
            is_enforced=self._enforced != "nothing",
        )
        if opener in BARE_OPENERS:
            self._section.push(opener)

    def _read_section(self, section: CallSection) -> None:
        """Reads one character."""
        had_call = bool(section.num_calls)
        verdict = section.push(self._text[self._num_read])
        self._num_read += 1
        if section.num_calls and not had_call:
            self._layout = _Pieces()
            self._before.take()
        match verdict:
            case "more":
                pass
            case "end":
                self._end_section()
            case "outside":
                self._end_section()
                self._read_again(section.unclaimed)
            case "bad":
                self._roll_back()

    def _end_section(self) -> None:
        self._section, self._layout = None, _Pieces()
        self._before.take()
        self._had_markup = True

    def _read_again(self, text: str) -> None:
        """What was read last, perhaps with earlier texts, is read once more."""
        self._num_read -= len(text)
        if self._num_read < 0:
            self._text, self._num_read = text + self._text[self._num_read + len(text) :], 0

    def _roll_back(self) -> None:
        """It was no section: its first character is content, and the others are read again."""
        if self._before:
            self._text, self._begin = self._before.take() + self._text, 0
        self._section = None
        self._release(self._text[self._begin])
        self._num_read = self._begin + 1

    def _release(self, text: str) -> None:
        """Hands out content, but keeps white space back that may be layout."""
        if self._layout is None:
            self._sink.content(text)
            return
        layout = WHITESPACE + (self._markup.separators if self._had_markup else "")
        begin = len(text) - len(text.lstrip(layout))
        self._layout.add(text[:begin])
        if begin < len(text):
            self._sink.content(self._layout.text() + text[begin:])
            self._layout = None


@cache
def _finder(openers: tuple[str, ...]) -> re.Pattern[str]:
    """Finds the first opener in a text, or a beginning of one at the text's end."""
    begun = {opener[:length] for opener in openers for length in range(1, len(opener))}
    ends = [re.escape(each) + r"\Z" for each in sorted(begun)]
    return re.compile("|".join([*map(re.escape, openers), *ends]))
