"""Regular expressions as trees. The functions in lower case simplify what they make."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from server.engine.grammar.regular.chars import ALL_CHARS, NO_CHARS, CharSet, chars


@dataclass(frozen=True, slots=True)
class Char:
    """One character of a set."""

    allowed: CharSet


@dataclass(frozen=True, slots=True)
class Sequence:
    """One after the other; without items, the empty text."""

    items: "tuple[Expression, ...]"


@dataclass(frozen=True, slots=True)
class Either:
    """Any of them; without items, no text at all."""

    items: "tuple[Expression, ...]"


@dataclass(frozen=True, slots=True)
class Repeat:
    """Again and again.

    Args:
        most: None for no limit.
    """

    item: "Expression"
    least: int
    most: int | None


@dataclass(frozen=True, slots=True)
class Both:
    """Texts that all of the items allow."""

    items: "tuple[Expression, ...]"


@dataclass(frozen=True, slots=True)
class Not:
    """All other texts."""

    item: "Expression"


Expression = Char | Sequence | Either | Repeat | Both | Not

EMPTY = Sequence(())
NOTHING = Either(())
ANY_TEXT = Repeat(Char(ALL_CHARS), 0, None)


def sequence(items: "Iterable[Expression]") -> Expression:
    flat = list[Expression]()
    for item in items:
        if item == NOTHING:
            return NOTHING
        flat.extend(item.items if isinstance(item, Sequence) else (item,))
    return flat[0] if len(flat) == 1 else Sequence(tuple(flat))


def text(literal: str) -> Expression:
    """Exactly this text."""
    return sequence(Char(chars(char)) for char in literal)


def either(items: "Iterable[Expression]") -> Expression:
    # A dictionary: each once, in their order.
    flat, single = dict[Expression, None](), NO_CHARS
    for item in items:
        for each in item.items if isinstance(item, Either) else (item,):
            if isinstance(each, Char):
                single |= each.allowed
            else:
                flat[each] = None
    found = ([Char(single)] if single else []) + list(flat)
    return found[0] if len(found) == 1 else Either(tuple(found))


def repeat(item: Expression, least: int, most: int | None) -> Expression:
    if item == EMPTY or most == 0:
        return EMPTY
    if item == NOTHING:
        return NOTHING if least else EMPTY
    if isinstance(item, Repeat) and item.least <= 1:
        # (a{0,3}){2,4} becomes a{0,12}: all counts in between are possible.
        inner, outer = item.most, most
        most = None if inner is None or outer is None else inner * outer
        item, least = item.item, least * item.least
    if is_nullable(item):
        least = 0
    return item if (least, most) == (1, 1) else Repeat(item, least, most)


def both(items: "Iterable[Expression]") -> Expression:
    flat = dict[Expression, None]()
    for item in items:
        for each in item.items if isinstance(item, Both) else (item,):
            if each != ANY_TEXT:
                flat[each] = None
    if NOTHING in flat:
        return NOTHING
    return ANY_TEXT if not flat else next(iter(flat)) if len(flat) == 1 else Both(tuple(flat))


def without(item: Expression) -> Expression:
    """The complement of an expression."""
    if isinstance(item, Not):
        return item.item
    return NOTHING if item == ANY_TEXT else ANY_TEXT if item == NOTHING else Not(item)


@lru_cache(maxsize=4096)
def is_nullable(expression: Expression) -> bool:
    """Whether it allows the empty text."""
    match expression:
        case Char():
            return False
        case Sequence(items) | Both(items):
            return all(map(is_nullable, items))
        case Either(items):
            return any(map(is_nullable, items))
        case Repeat(item, least, _):
            return least == 0 or is_nullable(item)
        case Not(item):
            return not is_nullable(item)


class Lengths(NamedTuple):
    """Lengths of an expression's texts, in characters. For a `Both` or a `Not` they are bounds."""

    least: int
    most: int | None


def lengths(expression: Expression) -> Lengths:
    match expression:
        case Char():
            return Lengths(1, 1)
        case Sequence(items):
            found = [lengths(item) for item in items]
            return Lengths(sum(f.least for f in found), _sum(f.most for f in found))
        case Either(items):
            found = [lengths(item) for item in items] or [Lengths(0, 0)]
            each = [f.most for f in found]
            most = None if None in each else max(m for m in each if m is not None)
            return Lengths(min(f.least for f in found), most)
        case Repeat(item, least, most):
            inner = lengths(item)
            longest = None if most is None or inner.most is None else most * inner.most
            return Lengths(least * inner.least, longest)
        case Both(items):
            found = [lengths(item) for item in items]
            known = [f.most for f in found if f.most is not None]
            return Lengths(max(f.least for f in found), min(known, default=None))
        case Not():
            return Lengths(0, None)


def _sum(values: Iterable[int | None]) -> int | None:
    total = 0
    for value in values:
        if value is None:
            return None
        total += value
    return total
