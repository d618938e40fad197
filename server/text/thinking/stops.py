"""Stop strings, looked for in the answer and not in what was thought before it."""

from collections.abc import Sequence

from server.text.stop import StopResult, StopStrings
from server.text.thinking.count import ThinkingCount
from server.text.thinking.segments import Segment, Splitter


class AnswerStops:
    """Watches one text, as `StopStrings` does.

    Args:
        splitter: Finds the answer; None where all is answer.
        shows_match: The stop string that is found is released too.
    """

    def __init__(
        self,
        strings: Sequence[str],
        splitter: Splitter | None = None,
        *,
        shows_match: bool = False,
    ) -> None:
        self._shows_match = shows_match
        self._strings = strings
        self._stop = StopStrings(strings)
        self._is_fresh = True
        """The automata have read nothing."""
        self._splitter = splitter
        self.thinking = ThinkingCount()

    def push(self, text: str, *, is_active: bool = True) -> StopResult:
        """Reads a token's text, and releases what is certain.

        Args:
            is_active: Stop strings are looked for in it.
        """
        if self._splitter is None:
            return self._look_in(text) if is_active else StopResult(text, None)
        self.thinking.token(len(text))
        return self._read(self._splitter.push(text), is_active=is_active)

    def finish(self) -> StopResult:
        """The text ended: what was held back is released, up to a stop string."""
        if self._splitter is None:
            return StopResult(self._stop.flush(), None)
        text, matched = self._read(self._splitter.finish(), is_active=True)
        self.thinking.finish()
        return StopResult(text if matched else text + self._stop.flush(), matched)

    def _look_in(self, text: str) -> StopResult:
        released, matched = self._stop.push(text)
        if matched is not None and self._shows_match:
            released += matched
        return StopResult(released, matched)

    def _read(self, segments: Sequence[Segment], *, is_active: bool) -> StopResult:
        self.thinking.settle(segments)
        released: list[str] = []
        for segment in segments:
            if segment.kind in ("answer", "arguments") and is_active:
                self._is_fresh = False
                text, matched = self._look_in(segment.text)
                released.append(text)
                if matched is not None:
                    return StopResult("".join(released), matched)
                continue
            released += (self._stop.flush(), segment.text)
            if not self._is_fresh:
                self._stop, self._is_fresh = StopStrings(self._strings), True
        return StopResult("".join(released), None)
