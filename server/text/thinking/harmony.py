"""gpt-oss' answers, called harmony: messages in channels, one behind the other.

    <|channel|>analysis<|message|>Let me see …<|end|>
    <|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{…}<|call|>
    <|start|>assistant<|channel|>final<|message|>Hello!<|return|>

The channel `analysis` is thinking. `final` is the answer, and so is `commentary` without a
recipient: what the model tells the user before it calls. A message to a function is a call, in
whatever channel it is. One to anything else, such as gpt-oss' own tools, is thinking.

Models leave out `<|end|><|start|>assistant` at times: a channel begins a message also where the one
before it is open.
"""

import re
from collections.abc import Set
from typing import Final, Literal

from server.text.thinking.segments import Kind, Segment, longest_overlap

START: Final = "<|start|>"
CHANNEL: Final = "<|channel|>"
MESSAGE: Final = "<|message|>"
CONSTRAIN: Final = "<|constrain|>"
_ENDS: Final = ("<|end|>", "<|call|>", "<|return|>")
MARKS: Final = (START, CHANNEL, MESSAGE, CONSTRAIN, *_ENDS)

_LONGEST_HEADER = 512
"""Characters. What is longer, or begins like no header, is text of a model that writes none."""
_CHANNELS: Final = ("analysis", "commentary", "final")
_MOST_WORDS = 3
"""In a header without a role: channel, recipient and the arguments' form."""
_BEGINNINGS: Final = (CHANNEL, "to=", "assistant", CONSTRAIN)
_RECIPIENT = re.compile(r"\bto=(\S+?)(?=<\||\s|$)")
_NAMED_CHANNEL = re.compile(re.escape(CHANNEL) + r"\s*(\w+)")
FUNCTIONS: Final = "functions."

_Mode = Literal["header", "body", "between"]


class HarmonySplitter:
    """See `Splitter`. The prompt ends with the beginning of the first message, up to its role.

    Args:
        names: The functions that can be called; a message to any other is answer.
    """

    def __init__(self, names: Set[str] = frozenset()) -> None:
        self._names = names
        self._mode: _Mode = "header"
        self._kind: Kind = "answer"
        self._is_first = True
        """No message has begun, so that it might be none."""
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
                case "header":
                    goes_on = self._read_header(found)
                case "body":
                    goes_on = self._read_body(found)
                case "between":
                    goes_on = self._read_between(found)
        return found

    def finish(self) -> list[Segment]:
        held = self._take(len(self._held))
        if not held:
            return []
        if self._mode == "body":
            return [Segment(self._kind, held)]
        is_text = self._is_first and not held.lstrip().startswith(("<", "to="))
        return [Segment("answer" if is_text else "markup", held)]

    def _read_header(self, found: list[Segment]) -> bool:
        at = self._held.find(MESSAGE)
        # What may be the mark's beginning is no part of the header, until it turns out not to be.
        end = len(self._held) - longest_overlap(self._held, (MESSAGE,)) if at < 0 else at
        may_be_header = _may_be_header(self._held[:end])
        if at < 0 and may_be_header:
            return False
        self._mode, self._is_first = "body", False
        if not may_be_header:
            self._kind = "answer"
            return True
        header = self._take(at + len(MESSAGE))
        self._kind, function = self._meaning(header)
        found.append(Segment("markup", header, opens=self._kind, function=function))
        return True

    def _meaning(self, header: str) -> tuple[Kind, str | None]:
        """What the message is, and the function it calls."""
        recipient = _RECIPIENT.search(header)
        if recipient is not None:
            name = recipient[1]
            if name.startswith(FUNCTIONS):
                name = name.removeprefix(FUNCTIONS)
                return ("arguments", name) if name in self._names else ("answer", None)
            return "thinking", None
        channel = _NAMED_CHANNEL.search(header)
        return ("thinking" if channel and channel[1] == "analysis" else "answer"), None

    def _read_body(self, found: list[Segment]) -> bool:
        """Reads up to the message's end. A message that begins ends one that was left open."""
        places = [(self._held.find(mark), mark) for mark in (*_ENDS, START, CHANNEL)]
        ends = [(at, mark) for at, mark in places if at >= 0]
        if not ends:
            free = len(self._held) - longest_overlap(self._held, (*_ENDS, START, CHANNEL))
            self._give(found, free)
            return False
        at, mark = min(ends)
        self._give(found, at)
        if mark == CHANNEL:
            return self._read_channel(found)
        if mark != START:
            found.append(Segment("markup", self._take(len(mark))))
        self._mode = "between"
        return True

    def _read_channel(self, found: list[Segment]) -> bool:
        """Reads a channel's mark in a body, where no message ended; False while it isn't known what
        it is."""
        begins = _begins_message(self._held)
        if begins is None:
            return False
        if begins:
            self._mode = "header"
        else:
            self._give(found, len(CHANNEL))
        return True

    def _give(self, found: list[Segment], length: int) -> None:
        if length:
            found.append(Segment(self._kind, self._take(length)))

    def _read_between(self, found: list[Segment]) -> bool:
        """Drops what is between two messages, and the role of the next one."""
        places = [at for mark in (START, CHANNEL) if (at := self._held.find(mark)) >= 0]
        if not places:
            free = len(self._held) - longest_overlap(self._held, (START, CHANNEL))
            if free:
                found.append(Segment("markup", self._take(free)))
            return False
        length = min(places)
        if self._held.startswith(START, length):
            length += len(START)
        if length:
            found.append(Segment("markup", self._take(length)))
        self._mode = "header"
        return True

    def _take(self, length: int) -> str:
        taken, self._held = self._held[:length], self._held[length:]
        return taken


def _may_be_header(text: str) -> bool:
    """Whether a text in front of `<|message|>` can be a header, or the beginning of one."""
    if len(text) > _LONGEST_HEADER:
        return False
    begin = text.lstrip()
    return any(begin.startswith(each) or each.startswith(begin) for each in _BEGINNINGS)


def _begins_message(text: str) -> bool | None:
    """Whether a text that begins with `<|channel|>` begins with a header; None while more of it has
    to be seen. In a body that is written about channels the mark may be text."""
    head, mark, _ = text.partition(MESSAGE)
    if not mark:
        head = head[: len(head) - longest_overlap(head, (MESSAGE, CONSTRAIN))]
    header = head.removeprefix(CHANNEL)
    words = header.replace(CONSTRAIN, " ").split()
    is_long = len(head) > _LONGEST_HEADER or len(words) > _MOST_WORDS
    if is_long or any(each in header for each in (*_ENDS, START, CHANNEL)):
        return False
    channel = words[0] if words else ""
    if channel in _CHANNELS:
        return True if mark else None
    may_go_on = not mark and len(words) <= 1
    return None if may_go_on and any(each.startswith(channel) for each in _CHANNELS) else False
