"""An answer's text → thinking, content and function calls, whatever pieces the text comes in."""

from server.text.thinking.segments import Kind, Segment, Splitter
from server.text.tools.events import AnswerEvent, ContentCount, EventSink
from server.text.tools.json_scanner import has_whole_value
from server.text.tools.parser import ToolParser

_BETWEEN = "\n\n"
"""Between two thoughts, or two parts of the answer, that were messages of their own."""


class ThinkingParser:
    """Reads one answer, as `ToolParser` does; calls are looked for behind the thinking alone.

    Args:
        tools: Finds calls in the answer; None where there are none, or the splitter finds them.
        marks: Texts that must reach the splitter even where they are special tokens.
        takes_content: False where the answer is calls alone.
    """

    def __init__(
        self,
        splitter: Splitter,
        tools: ToolParser | None,
        marks: tuple[str, ...],
        *,
        takes_content: bool = True,
    ) -> None:
        self._splitter = splitter
        self._tools = tools
        self._own_marks = marks
        self._sink = EventSink(takes_content=takes_content)
        self._seen: set[Kind] = set()
        self._joint: Kind | None = None
        """What begins anew: a line break comes before its text."""
        self._arguments: list[str] | None = None
        """Those of the call that is open, where the splitter finds calls."""
        self._is_undecided = False
        """Text of the answer may become content or a call."""
        self._num_read = 0
        """Characters in the segments so far."""
        self._answers: list[tuple[int, int]] = []
        """Where in the text the answer's parts begin and end."""

    @property
    def marks(self) -> tuple[str, ...]:
        """Texts that must reach the parser even where they are special tokens."""
        return self._own_marks if self._tools is None else (*self._own_marks, *self._tools.marks)

    @property
    def num_calls(self) -> int:
        """Calls found so far."""
        return self._sink.num_calls if self._tools is None else self._tools.num_calls

    @property
    def ends_in_call(self) -> bool:
        """Whether the answer, once it has ended, ends within a call."""
        if self._tools is not None:
            return self._tools.ends_in_call
        # Elsewhere too a call ends with its arguments, and not with the mark behind them.
        return self._arguments is not None and not has_whole_value("".join(self._arguments))

    @property
    def content_count(self) -> ContentCount:
        """Content found so far."""
        return self._sink.content_count

    @property
    def num_held(self) -> int:
        """Characters at the end of what was read of which it isn't known what they are."""
        return self._splitter.num_held + (0 if self._tools is None else self._tools.num_held)

    def is_answer(self, begin: int, end: int) -> bool:
        """Whether some of these characters of the text may be content: they are neither thinking
        nor markup around it."""
        return any(begin < stop and end > start for start, stop in reversed(self._answers))

    def push(self, text: str) -> list[AnswerEvent]:
        """Reads more text."""
        self.read(text)
        return self._sink.take()

    def read(self, text: str) -> bool:
        """Reads more text, whose events the next `push` or `finish` hands out; whether it led to
        any, or is known to be markup. Else what it is remains undecided."""
        before = self._sink.num_changes
        for segment in self._splitter.push(text):
            self._read(segment)
        is_held = bool(self._splitter.num_held) or self._is_undecided
        return not is_held or self._sink.num_changes > before

    def finish(self) -> list[AnswerEvent]:
        """The text ended."""
        for segment in self._splitter.finish():
            self._read(segment)
        if self._tools is not None:
            self._sink.add(self._tools.finish())
        return self._sink.take()

    def _read(self, segment: Segment) -> None:
        self._place(segment)
        self._follow_call(segment)
        match segment.kind:
            case "thinking":
                self._sink.thinking(self._joined(segment))
            case "answer" if self._tools is not None:
                self._is_undecided = not self._tools.read(segment.text)
                self._sink.add(self._tools.push(""))
            case "answer":
                self._sink.content(self._joined(segment))
            case "arguments":
                self._sink.arguments(segment.text)
            case "markup":
                self._joint = segment.opens
                if segment.function is not None:
                    self._sink.start_call(segment.function)

    def _follow_call(self, segment: Segment) -> None:
        if segment.function is not None:
            self._arguments = []
        elif segment.kind == "arguments" and self._arguments is not None:
            self._arguments.append(segment.text)
        else:
            self._arguments = None

    def _place(self, segment: Segment) -> None:
        begin = self._num_read
        self._num_read += len(segment.text)
        if segment.kind != "answer":
            return
        if self._answers and self._answers[-1][1] == begin:
            begin, _ = self._answers.pop()
        self._answers.append((begin, self._num_read))

    def _joined(self, segment: Segment) -> str:
        """The segment's text, behind a line break where it doesn't go on with what came before."""
        breaks = self._joint == segment.kind and segment.kind in self._seen
        self._joint = None
        self._seen.add(segment.kind)
        return _BETWEEN + segment.text if breaks else segment.text
