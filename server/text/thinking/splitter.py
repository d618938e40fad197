"""Thinking between two marks, in front of the answer: `<think>` … `</think>`.

Only what the answer begins with is thinking, and it ends with the first end mark: the same marks
later in the answer are text. White space beside the marks is layout, and belongs to neither.
"""

from typing import Literal

from server.text.thinking.segments import MOST_SPACE, SPACE, Segment, longest_overlap, trimmed

ThinkingStart = Literal["open", "unknown"]
"""Where a prompt leaves its answer: inside the thinking, or where thinking may begin."""

_Mode = Literal["before", "thinking", "behind", "answer"]


class MarkSplitter:
    """See `Splitter`.

    Args:
        begin, end: the marks.
        start: `open` if the prompt has the first mark already.
    """

    def __init__(self, begin: str, end: str, start: ThinkingStart = "unknown") -> None:
        self._begin = begin
        self._end = end
        self._mode: _Mode = "thinking" if start == "open" else "before"
        self._at_first = True
        """No thinking was read yet: white space is layout."""
        self._held = ""

    @property
    def num_held(self) -> int:
        return len(self._held)

    def push(self, text: str) -> list[Segment]:
        self._held += text
        found: list[Segment] = []
        goes_on = True
        while goes_on and self._held:
            match self._mode:
                case "before":
                    goes_on = self._read_before(found)
                case "thinking":
                    goes_on = self._read_thinking(found)
                case "behind":
                    self._drop_space(found)
                    goes_on = bool(self._held)
                    if goes_on:
                        self._mode = "answer"
                case "answer":
                    found.append(Segment("answer", self._take(len(self._held))))
                    goes_on = False
        return found

    def finish(self) -> list[Segment]:
        held = self._take(len(self._held))
        if not held:
            return []
        if self._mode != "thinking":
            return [Segment("answer", held)]
        length = trimmed(held)
        parts = (Segment("thinking", held[:length]), Segment("markup", held[length:]))
        return [part for part in parts if part.text]

    def _read_before(self, found: list[Segment]) -> bool:
        """Whether thinking begins, or the answer does; False while that is not known."""
        text = self._held.lstrip(SPACE)
        num_spaces = len(self._held) - len(text)
        if num_spaces > MOST_SPACE:
            self._mode = "answer"
        elif text.startswith(self._begin):
            length = num_spaces + len(self._begin)
            found.append(Segment("markup", self._take(length), opens="thinking"))
            self._mode = "thinking"
        elif self._begin.startswith(text):
            return False
        else:
            self._mode = "answer"
        return True

    def _read_thinking(self, found: list[Segment]) -> bool:
        """Whether the thinking ends in what is held."""
        if self._at_first:
            self._drop_space(found)
            if not self._held:
                return False
        at = self._held.find(self._end)
        free = at if at >= 0 else len(self._held) - longest_overlap(self._held, (self._end,))
        length = trimmed(self._held[:free])
        if length:
            self._at_first = False
            found.append(Segment("thinking", self._take(length)))
        if at < 0:
            return False
        ends = at - length + len(self._end)
        found.append(Segment("markup", self._take(ends), opens="answer"))
        self._mode = "behind"
        return True

    def _drop_space(self, found: list[Segment]) -> None:
        length = len(self._held) - len(self._held.lstrip(SPACE))
        if length:
            found.append(Segment("markup", self._take(length)))

    def _take(self, length: int) -> str:
        taken, self._held = self._held[:length], self._held[length:]
        return taken
