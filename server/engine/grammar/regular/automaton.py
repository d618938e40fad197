"""An expression → a deterministic automaton, by derivatives (Brzozowski 1964).

The derivative of an expression by a character is what may follow that character. It is as easily
taken of intersections and complements as of anything else, which is what this is for.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from server.engine.grammar.regular.chars import ALL_CHARS, CharSet
from server.engine.grammar.regular.expression import (
    EMPTY,
    NOTHING,
    Both,
    Char,
    Either,
    Expression,
    Not,
    Repeat,
    Sequence,
    both,
    either,
    is_nullable,
    repeat,
    sequence,
    without,
)

MAX_STATES = 600
"""Most states of an automaton: a grammar takes some milliseconds to compile for each."""
_MAX_CLASSES = 2000


class TooManyStatesError(Exception):
    """The automaton would be larger than `MAX_STATES`."""


@dataclass(frozen=True, slots=True)
class Automaton:
    """Begins in state 0. Every state leads to an accepting one."""

    transitions: tuple[tuple[tuple[CharSet, int], ...], ...]
    """Each state's transitions; the sets of one state have no character in common."""
    accepting: frozenset[int]


@lru_cache(maxsize=256)
def automaton(expression: Expression) -> Automaton | None:
    """The automaton of an expression; None where it allows no text.

    Raises:
        TooManyStatesError: it is too large.
    """
    states, order = {expression: 0}, [expression]
    found = list[dict[int, CharSet]]()
    for state in order:
        leads = dict[int, CharSet]()
        for allowed in _classes(state):
            after = derivative(state, chr(allowed.ranges[0][0]))
            if after == NOTHING:
                continue
            target = states.setdefault(after, len(states))
            if target == len(order):
                order.append(after)
            leads[target] = leads[target] | allowed if target in leads else allowed
        if len(order) > MAX_STATES:
            raise TooManyStatesError
        found.append(leads)
    accepting = {index for index, state in enumerate(order) if is_nullable(state)}
    return _trimmed(found, accepting)


def _trimmed(found: list[dict[int, CharSet]], accepting: set[int]) -> Automaton | None:
    """The automaton without states from which nothing is accepted."""
    live, before = set(accepting), -1
    while len(live) != before:
        before = len(live)
        live |= {index for index, leads in enumerate(found) if not live.isdisjoint(leads)}
    if 0 not in live:
        return None
    names = {state: name for name, state in enumerate(sorted(live))}
    transitions = tuple(
        tuple(
            (allowed, names[target]) for target, allowed in found[state].items() if target in live
        )
        for state in sorted(live)
    )
    return Automaton(transitions, frozenset(names[state] for state in accepting))


@lru_cache(maxsize=8192)
def derivative(expression: Expression, char: str) -> Expression:
    """The expression for what may follow this character at the beginning."""
    match expression:
        case Char(allowed):
            return EMPTY if char in allowed else NOTHING
        case Sequence(items):
            return _of_sequence(items, char)
        case Either(items):
            return either(derivative(item, char) for item in items)
        case Repeat(item, least, most):
            rest = repeat(item, max(least - 1, 0), None if most is None else most - 1)
            return sequence((derivative(item, char), rest))
        case Both(items):
            return both(derivative(item, char) for item in items)
        case Not(item):
            return without(derivative(item, char))


def _of_sequence(items: tuple[Expression, ...], char: str) -> Expression:
    return either(
        sequence((derivative(item, char), *items[index + 1 :]))
        for index, item in enumerate(_beginnings(items))
    )


@lru_cache(maxsize=4096)
def _classes(expression: Expression) -> tuple[CharSet, ...]:
    """Sets that together have all characters. At the beginning, the expression treats all
    characters of a set alike."""
    match expression:
        case Char(allowed):
            return _parts((allowed, ~allowed))
        case Sequence(items):
            count = next(
                (i for i, item in enumerate(items, 1) if not is_nullable(item)), len(items)
            )
            return _crossed(_classes(item) for item in items[:count])
        case Either(items) | Both(items):
            return _crossed(map(_classes, items))
        case Repeat(item, _, _) | Not(item):
            return _classes(item)


def _beginnings(items: tuple[Expression, ...]) -> tuple[Expression, ...]:
    """The items that the first character may belong to."""
    count = next((i for i, item in enumerate(items, 1) if not is_nullable(item)), len(items))
    return items[:count]


def _crossed(partitions: Iterable[tuple[CharSet, ...]]) -> tuple[CharSet, ...]:
    crossed: tuple[CharSet, ...] = (ALL_CHARS,)
    for partition in dict.fromkeys(partitions):
        crossed = _parts(a & b for a in crossed for b in partition)
        if len(crossed) > _MAX_CLASSES:
            raise TooManyStatesError
    return crossed


def _parts(sets: Iterable[CharSet]) -> tuple[CharSet, ...]:
    return tuple(part for part in sets if part)
