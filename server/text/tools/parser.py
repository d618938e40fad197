"""An answer's text → content and function calls, whatever pieces the text comes in."""

from collections import deque
from collections.abc import Set
from typing import Literal

from server.text.tools.events import AnswerEvent, ContentCount, EventSink
from server.text.tools.json_scanner import WHITESPACE
from server.text.tools.section import OBJECT_OPENER, CallSection, Markup, longest_beginning

Enforced = Literal["nothing", "calls", "only_calls"]
"""What a grammar ensures: nothing, that whatever begins like a call is one, or that the answer is
calls alone."""


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
        self._input = deque[str]()
        """Characters to read; usually empty after a push."""
        self._section: CallSection | None = None
        self._raw = ""
        """The section's text while it has no call: its opener, and what followed."""
        self._opener = ""
        """What may be the beginning of an opener."""
        self._layout: str | None = ""
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
        return len(self._layout or "") + len(self._opener) + len(self._raw)

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
        self._input.extend(text)
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
            self._sink.content(self._layout)
        self._layout = ""
        return self._sink.take()

    def _is_enforced_call(self) -> bool:
        """Whether the open section, which has no call so far, would have become one."""
        return self._enforced != "nothing" and self._raw.startswith(self._trigger)

    def _drain(self) -> None:
        while self._input:
            char = self._input.popleft()
            if self._section is None:
                self._push_content(char)
            else:
                self._push_section(self._section, char)

    def _push_content(self, char: str) -> None:
        text = self._opener + char
        self._opener = longest_beginning(text, self._markup.openers)
        self._release(text[: len(text) - len(self._opener)])
        if self._opener in self._markup.openers:
            self._begin_section(self._opener)

    def _begin_section(self, opener: str) -> None:
        self._opener = ""
        self._section = CallSection(
            self._markup,
            opener,
            self._names,
            self._sink,
            is_enforced=self._enforced != "nothing",
        )
        self._raw = opener
        if opener == OBJECT_OPENER:
            self._section.push(opener)

    def _push_section(self, section: CallSection, char: str) -> None:
        if not section.num_calls:
            self._raw += char
        verdict = section.push(char)
        if section.num_calls:
            self._layout = self._raw = ""
        match verdict:
            case "more":
                pass
            case "end":
                self._end_section()
            case "outside":
                self._end_section()
                self._input.extendleft(reversed(section.unclaimed))
            case "bad":
                self._roll_back()

    def _end_section(self) -> None:
        self._section, self._raw, self._layout = None, "", ""
        self._had_markup = True

    def _roll_back(self) -> None:
        """It was no section: its first character is content, and the others are read again."""
        raw, self._raw, self._section = self._raw, "", None
        self._release(raw[0])
        self._input.extendleft(reversed(raw[1:]))

    def _release(self, text: str) -> None:
        """Hands out content, but keeps white space back that may be layout."""
        if self._layout is None:
            self._sink.content(text)
            return
        layout = WHITESPACE + (self._markup.separators if self._had_markup else "")
        begin = len(text) - len(text.lstrip(layout))
        self._layout += text[:begin]
        if begin < len(text):
            self._sink.content(self._layout + text[begin:])
            self._layout = None
