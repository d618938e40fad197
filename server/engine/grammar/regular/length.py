"""Expressions of texts of a given length."""

from server.engine.grammar.regular.automaton import TooManyStatesError, automaton
from server.engine.grammar.regular.chars import ALL_CHARS
from server.engine.grammar.regular.expression import (
    ANY_TEXT,
    Char,
    Either,
    Expression,
    Repeat,
    Sequence,
    both,
    either,
    lengths,
    repeat,
    sequence,
)

_MAX_COUNT = 100
"""Up to this limit, an automaton is tried for texts with several parts of any length."""


def with_length(expression: Expression, least: int, most: int | None) -> Expression:
    """Texts of at least and at most so many characters.

    Where several parts can be of any length and the limit is large, they share what is left: each
    is limited alike, so that not all texts remain.

    Raises:
        TooManyStatesError: it would need too large an automaton.
    """
    if expression == ANY_TEXT:
        return repeat(Char(ALL_CHARS), least, most)
    shortest, longest = lengths(expression)
    if shortest >= least and (most is None or (longest is not None and longest <= most)):
        return expression
    exact = _adjusted(expression, least, most)
    if exact is not None:
        return exact
    limited = both((expression, Repeat(Char(ALL_CHARS), least, most)))
    if (most or least) <= _MAX_COUNT:
        try:
            automaton(limited)
            return limited
        except TooManyStatesError:
            pass
    if shortest < least or most is None:
        automaton(limited)
        return limited
    return _shared(expression, most)


def _adjusted(expression: Expression, least: int, most: int | None) -> Expression | None:
    """The exact expression where all parts but one repeated character have a fixed length; else
    None."""
    items = expression.items if isinstance(expression, Sequence) else (expression,)
    variable = [index for index, item in enumerate(items) if len(set(lengths(item))) > 1]
    if len(variable) != 1:
        return None
    (index,) = variable
    item = items[index]
    if not isinstance(item, Repeat) or not isinstance(item.item, Char):
        return None
    others = sum(lengths(other).least for other in items[:index] + items[index + 1 :])
    low = max(item.least, least - others)
    limits = [
        limit for limit in (item.most, None if most is None else most - others) if limit is not None
    ]
    high = min(limits, default=None)
    if high is not None and low > high:
        return Either(())
    return sequence((*items[:index], repeat(item.item, low, high), *items[index + 1 :]))


def _shared(expression: Expression, most: int) -> Expression:
    """Gives all repetitions without a limit the same one, as large as fits."""
    low, high = 0, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        longest = lengths(_capped(expression, middle)).most
        low, high = (middle, high) if longest is not None and longest <= most else (low, middle)
    found = _capped(expression, low)
    longest = lengths(found).most
    if longest is None or longest > most:
        raise TooManyStatesError
    return found


def _capped(expression: Expression, count: int) -> Expression:
    match expression:
        case Sequence(items):
            return sequence(_capped(item, count) for item in items)
        case Either(items):
            return either(_capped(item, count) for item in items)
        case Repeat(item, least, most):
            inner = _capped(item, count)
            return repeat(inner, least, max(least, count) if most is None else most)
        case _:
            return expression
