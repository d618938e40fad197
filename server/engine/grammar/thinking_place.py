"""Where an answer stands in front of, within or behind its thinking: a function of its tokens.

    opening    may begin with thinking, or be the answer at once     (marks like <think>)
    thinking   up to the mark that ends it
    between    behind a thinking, in front of the next or of the answer   (gpt-oss' channels)
    answer

The marks are found in the tokens' bytes, as the reader of the text finds them, so that it makes
no difference how the model cuts a mark into tokens. Pure.
"""

from typing import Literal, NamedTuple

from server.engine.types import Thinking

Phase = Literal["opening", "thinking", "between", "answer"]


class Place(NamedTuple):
    """A place between two tokens of an answer."""

    phase: Phase
    since: int
    """Number of the output's tokens before the phase began."""
    tail: bytes = b""
    """The last bytes of the phase, as many as may be part of a mark."""
    num_tokens: int = 0
    """Tokens of thinking so far."""
    num_forced: int = 0
    """How much of the forced end has been written."""
    spills: bool = False
    """The last token ended the thinking and has more text behind the mark than white space."""


def first_place(thinking: Thinking) -> Place:
    """The place in front of the answer's first token."""
    if thinking.is_open:
        return Place("thinking", 0)
    return Place("between" if thinking.answer else "opening", 0)


def forced_token(thinking: Thinking, place: Place, output_ids: list[int]) -> int | None:
    """Which token of the forced end must come next; None where the end is not forced.

    What the model has written of the end by itself is not written again.
    """
    end_ids = thinking.end_ids
    if 0 < place.num_forced < len(end_ids):
        return place.num_forced
    budget = thinking.budget
    if place.phase != "thinking" or budget is None or place.num_tokens < budget:
        return None
    for length in range(min(len(end_ids) - 1, place.num_tokens), 0, -1):
        if tuple(output_ids[-length:]) == end_ids[:length]:
            return length
    return 0


def next_place(
    thinking: Thinking, place: Place, raw: bytes, num_output: int, forced: int | None
) -> Place:
    """The place behind one more token.

    Args:
        raw: the token's bytes.
        num_output: number of the output's tokens with this one.
        forced: what `forced_token` says of it.
    """
    num_tokens = place.num_tokens + (place.phase == "thinking")
    num_forced = 0 if forced is None else forced + 1
    moved = place._replace(
        tail=place.tail + raw, num_tokens=num_tokens, num_forced=num_forced, spills=False
    )
    while (further := _further(thinking, moved, num_output)) is not None:
        moved = further
    return moved._replace(tail=_kept(thinking, moved))


def _further(thinking: Thinking, place: Place, num_output: int) -> Place | None:
    """The place behind the next mark in the tail; None if there is none."""
    text = place.tail
    match place.phase:
        case "opening":
            return _behind_opening(thinking, place, num_output)
        case "thinking":
            _, mark, rest = text.partition(thinking.end)
            if not mark:
                return None
            phase: Phase = "between" if thinking.answer else "answer"
            spills = phase == "answer" and bool(rest.strip())
            return place._replace(phase=phase, since=num_output, tail=rest, spills=spills)
        case "between":
            marks = (thinking.begin, thinking.answer)
            found = [(at, mark) for mark in marks if (at := text.find(mark)) >= 0]
            if not found:
                return None
            at, mark = min(found)
            phase = "thinking" if mark == thinking.begin else "answer"
            return place._replace(phase=phase, since=num_output, tail=text[at + len(mark) :])
        case "answer":
            return None


def _behind_opening(thinking: Thinking, place: Place, num_output: int) -> Place | None:
    text = place.tail.lstrip()
    if text.startswith(thinking.begin):
        rest = text[len(thinking.begin) :]
        return place._replace(phase="thinking", since=num_output, tail=rest)
    # The answer begins with the first token: what was read is its text.
    return None if thinking.begin.startswith(text) else place._replace(phase="answer")


def _kept(thinking: Thinking, place: Place) -> bytes:
    """The part of the tail that may belong to a mark."""
    match place.phase:
        case "opening":
            return place.tail
        case "thinking":
            length = len(thinking.end) - 1
        case "between":
            length = max(len(thinking.begin), len(thinking.answer)) - 1
        case "answer":
            length = 0
    return place.tail[-length:] if length else b""
