"""Expressions → rules of a grammar that xgrammar compiles.

Most of an expression becomes xgrammar's own `Regex("…")`, for which it makes automata and masks in
advance. Intersections and complements become rules of one state each; long repetitions are counted
in blocks, since masks are made for each character of a count otherwise.
"""

from collections.abc import Callable, Iterator
from typing import Final

from server.engine.grammar.regular.automaton import Automaton, automaton
from server.engine.grammar.regular.chars import CharSet, char_set, chars
from server.engine.grammar.regular.ebnf_text import character, literal
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
    repeat,
)
from server.errors import GrammarError

BLOCK: Final = 32
"""Characters of a block. Half as many take half the time to compile, and more in each step."""
_LONGEST_COUNT: Final = 2 * BLOCK

_LAST_OF_WIDTH: Final = (0x7F, 0x7FF, 0xFFFF, 0x10FFFF)

_RARE: Final = 0x10000
"""Not every vocabulary can write characters from here on. xgrammar notices that in its classes, but
not in its regular expressions."""

Spelling = Callable[[CharSet], str]
"""A regular expression for one character of a set, as xgrammar reads it."""


def plain(allowed: CharSet) -> str:
    """Writes characters as they are.

    All characters of a class have equally many bytes. xgrammar joins neighbouring ranges, and
    where one range has shorter and longer characters it lets bytes through that are no UTF-8.
    """
    classes = [f"[{inside}]" for inside in map(_inside, _by_width(allowed)) if inside]
    return classes[0] if len(classes) == 1 else f"({'|'.join(classes)})"


def _by_width(allowed: CharSet) -> Iterator[list[tuple[int, int]]]:
    first = 0
    for last in _LAST_OF_WIDTH:
        parts = ((max(low, first), min(high, last)) for low, high in allowed.ranges)
        yield [(low, high) for low, high in parts if low <= high]
        first = last + 1


def _inside(ranges: list[tuple[int, int]]) -> str:
    return "".join(_shown(a) if a == b else f"{_shown(a)}-{_shown(b)}" for a, b in ranges)


def in_json(allowed: CharSet) -> str:
    """Writes characters as in a JSON string, each in one way only: escaped where it must be, by the
    short form where there is one."""
    kept = allowed - _ESCAPED
    ways = [plain(kept)] if kept else []
    short = "".join(letter for char, letter in _SHORT.items() if char in allowed)
    if short:
        ways.append(rf"\\{plain(chars(short))}")
    long = (allowed & _CONTROL) - _SHORT_CHARS
    ways += [rf"\\u00{'01'[high]}{plain(low)}" for high, low in _long(long)]
    return ways[0] if len(ways) == 1 else f"({'|'.join(ways)})"


_CONTROL: Final = char_set([(0, 0x1F)])
_SHORT: Final = {
    '"': '"', "\\": "\\", "\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t",
}  # fmt: skip
_SHORT_CHARS: Final = chars("".join(_SHORT))
_ESCAPED: Final = _CONTROL | _SHORT_CHARS


def _long(allowed: CharSet) -> list[tuple[int, CharSet]]:
    """Groups control characters by their first digit: (the digit, their last digits)."""
    found = list[tuple[int, CharSet]]()
    for high in (0, 1):
        codes = [low for low in range(16) if chr(16 * high + low) in allowed]
        if codes:
            found.append((high, chars("".join(f"{code:x}" for code in codes))))
    return found


def _shown(code: int) -> str:
    char = chr(code)
    if code < 0x20 or code == 0x7F:
        return f"\\x{code:02x}"
    return char if char.isalnum() or code > 0x7F else f"\\{char}"


class RuleWriter:
    """Writes rules, each under a name of its own.

    Args:
        prefix: prefix of all names.
    """

    def __init__(self, prefix: str, spelling: Spelling) -> None:
        self._prefix = prefix
        self._spelling = spelling
        self._names: dict[str | Expression, str] = {}
        self._num_automata = 0
        self.rules = list[str]()

    def rule(self, expression: Expression) -> str:
        """The name of a rule for these texts.

        Raises:
            GrammarError: there are none.
            TooManyStatesError: they need too large an automaton.
        """
        if expression not in self._names:
            body = self._body(expression)
            self._names[expression] = self.named(body)
        return self._names[expression]

    def named(self, body: str) -> str:
        """The name of a rule with this body."""
        if body not in self._names:
            name = f"{self._prefix}{len(self.rules)}"
            self._names[body] = name
            self.rules.append(f"{name} ::= {body}")
        return self._names[body]

    def _body(self, expression: Expression) -> str:
        if expression == EMPTY:
            return '""'
        if expression == NOTHING:
            raise GrammarError("no text is left")
        if _is_simple(expression):
            return f"Regex({literal(self._regex(expression))})"
        match expression:
            case Char(allowed):
                ranges = (f"{character(chr(a))}-{character(chr(b))}" for a, b in allowed.ranges)
                return f"[{''.join(ranges)}]"
            case Sequence(items):
                return " ".join(self.rule(part) for part in _joined(items))
            case Either(items):
                return " | ".join(map(self.rule, items))
            case Repeat(item, least, most):
                if _is_simple(item):
                    return self._counted(item, least, most)
                return f"{self.rule(item)}{{{least},{'' if most is None else most}}}"
            case _:
                found = automaton(expression)
                if found is None:
                    raise GrammarError("no text is left")
                return self._states(found)

    def _counted(self, item: Expression, least: int, most: int | None) -> str:
        """A repetition as blocks and a rest, twice: for the least number, then for what may
        follow."""
        parts = list[str]()
        if least:
            parts += self._blocks(item, least // BLOCK, least // BLOCK)
            parts.append(self.rule(repeat(item, least % BLOCK, least % BLOCK)))
        if most is None:
            parts.append(self.rule(repeat(item, 0, None)))
        elif most > least:
            blocks, rest = divmod(most - least, BLOCK)
            short = [*self._blocks(item, 0, blocks - 1), self.rule(repeat(item, 0, BLOCK - 1))]
            long = [*self._blocks(item, blocks, blocks), self.rule(repeat(item, 0, rest))]
            ways = [" ".join(short)] if blocks else []
            parts.append(f"({' | '.join([*ways, ' '.join(long)])})")
        return " ".join(parts)

    def _blocks(self, item: Expression, least: int, most: int) -> list[str]:
        block = self.rule(repeat(item, BLOCK, BLOCK))
        return [f"{block}{{{least},{most}}}"] if most else []

    def _states(self, found: Automaton) -> str:
        """The name of the first state's rule; each state has one."""
        self._num_automata += 1
        base = f"{self._prefix}a{self._num_automata}_"
        for state in range(len(found.transitions)):
            self.rules.append(f"{base}{state} ::= {self._state(state, found, base)}")
        return f"{base}0"

    def _state(self, state: int, found: Automaton, base: str) -> str:
        again = [allowed for allowed, target in found.transitions[state] if target == state]
        ways = [
            f"{self.rule(Char(allowed))} {base}{target}"
            for allowed, target in found.transitions[state]
            if target != state
        ]
        if state in found.accepting:
            ways.append('""')
        loop = "".join(f"{self.rule(repeat(Char(allowed), 0, None))} " for allowed in again)
        return f"{loop}({' | '.join(ways)})"

    def _regex(self, expression: Expression) -> str:
        match expression:
            case Char(allowed):
                return self._spelling(allowed)
            case Sequence(items):
                return "".join(map(self._regex, items))
            case Either(items):
                return f"({'|'.join(map(self._regex, items))})"
            case Repeat(item, least, most):
                limits = f"{{{least},{'' if most is None else most}}}"
                return f"({self._regex(item)}){limits}"
            case _:
                raise TypeError("has no regular expression")


def _is_simple(expression: Expression) -> bool:
    """Whether one of xgrammar's regular expressions can write it."""
    match expression:
        case Char(allowed):
            return allowed.ranges[0][0] < _RARE
        case Sequence(items) | Either(items):
            return all(map(_is_simple, items))
        case Repeat(item, least, most):
            return _is_simple(item) and max(least, most or 0) <= _LONGEST_COUNT
        case Both() | Not():
            return False


def _joined(items: tuple[Expression, ...]) -> list[Expression]:
    """Joins simple neighbours, which then share an automaton."""
    found = list[list[Expression]]()
    for item in items:
        if found and _is_simple(item) and _is_simple(found[-1][-1]):
            found[-1].append(item)
        else:
            found.append([item])
    return [Sequence(tuple(group)) if len(group) > 1 else group[0] for group in found]
