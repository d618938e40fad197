"""Patterns in Python's syntax → expressions.

Python's own parser reads them, so nothing is misread: an escape that it doesn't know is an error
there. What isn't regular, or depends on how a match is searched for, is refused by name.
"""

import importlib
import re
import threading
import warnings
from collections.abc import Sequence as Items
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

from server.engine.grammar.regular.chars import (
    ALL_CHARS,
    LINE_FEED,
    NO_CHARS,
    CharSet,
    char_set,
    characters_with_cases,
    chars,
    matching,
)
from server.engine.grammar.regular.expression import (
    ANY_TEXT,
    EMPTY,
    Char,
    Expression,
    both,
    either,
    repeat,
    sequence,
    without,
)
from server.errors import GrammarError

_REFUSED = {
    "ASSERT": "groups that look ahead beyond a group or a repetition that they are in",
    "ASSERT_NOT": "groups that look ahead beyond a group or a repetition that they are in",
    "ATOMIC_GROUP": "atomic groups (?>…)",
    "POSSESSIVE_REPEAT": "possessive repetition such as *+",
    "GROUPREF": "references to groups",
    "GROUPREF_EXISTS": "groups with a condition",
}
_ASSERTIONS = ("ASSERT", "ASSERT_NOT")
_STARTS = ("AT_BEGINNING", "AT_BEGINNING_STRING")
_ENDS = ("AT_END", "AT_END_STRING")
_ANCHORS = {
    "AT_BEGINNING": "^", "AT_BEGINNING_STRING": "\\A", "AT_END": "$", "AT_END_STRING": "\\Z",
}  # fmt: skip
_LETTERS = {"DIGIT": "d", "SPACE": "s", "WORD": "w"}
_ECMA_LINE_ENDS = chars("\n\r\u2028\u2029")
_BYTE_ORDER_MARK = chars("\ufeff")
"""A space in JavaScript, but not in Python."""

# What `re` parses with. Its trees are no public interface, so a test holds every kind of node.
_parser: Any = importlib.import_module("re._parser")
_warnings_lock = threading.Lock()


class Edges(NamedTuple):
    """What surrounds a part of a pattern: what may stand on either side unless the part is
    anchored, and whether the text begins or ends there, so that it can be anchored."""

    before: Expression
    after: Expression
    starts: bool = True
    ends: bool = True


WHOLE = Edges(EMPTY, EMPTY)
ANYWHERE = Edges(ANY_TEXT, ANY_TEXT)
_INSIDE = Edges(EMPTY, EMPTY, False, False)


def python_pattern(pattern: str) -> Expression:
    """The texts that `re.fullmatch` matches.

    Raises:
        GrammarError: it is no pattern of Python's, or has parts that can't be enforced.
    """
    return _read(pattern, WHOLE, _Reader(is_schema=False))


def schema_pattern(pattern: str) -> Expression:
    """Texts in which both JavaScript and Python find the pattern of a JSON schema.

    They disagree on letters, digits, spaces and line ends that are not ASCII: of these, none
    matches `\\w`, `\\d`, `\\s`, their opposites, or `.`, if only one of the two says so.

    Raises:
        GrammarError: as above.
    """
    return _read(pattern, ANYWHERE, _Reader(is_schema=True))


def _read(pattern: str, edges: Edges, reader: "_Reader") -> Expression:
    try:
        # The parser warns of what may change its meaning in some later Python; today it has one.
        with _warnings_lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parsed = _parser.parse(pattern, 0)
        return reader.sequence(list(parsed), parsed.state.flags, edges)
    except re.error as error:
        raise GrammarError(f"is no regular expression: {error}") from None
    except OverflowError as error:
        raise GrammarError(f"is no regular expression: {error}") from None
    except RecursionError:
        raise GrammarError("is nested too deep") from None


@dataclass(frozen=True, slots=True)
class _Reader:
    """Translates the parts of a parsed pattern.

    Args:
        is_schema: characters on which JavaScript and Python disagree are in no set, or
        is_broad: in every set, for a part that must not match.
    """

    is_schema: bool
    is_broad: bool = False

    def sequence(self, items: Items[Any], flags: int, edges: Edges) -> Expression:
        first, last = 0, len(items)
        before, after, starts, ends = edges
        while starts and first < last and _is_anchor(items[first], _STARTS):
            before, first = EMPTY, first + 1
        while ends and first < last and _is_anchor(items[last - 1], _ENDS):
            after, last = self._after_end(items[last - 1], after), last - 1
        core = items[first:last]
        ahead = next((i for i, item in enumerate(core) if str(item[0]) in _ASSERTIONS), None)
        if ahead is not None and ends:
            return self._looking_ahead(core, ahead, flags, Edges(before, after, starts, ends))
        if not any(map(_has_anchor, core)):
            found = [self.item(item, flags, _INSIDE) for item in core]
            return sequence((before, *found, after))
        parts = list[Expression]()
        for index, item in enumerate(core):
            is_first, is_last = index == 0, index == len(core) - 1
            at = Edges(
                before if is_first else EMPTY,
                after if is_last else EMPTY,
                starts and is_first,
                ends and is_last,
            )
            parts.append(self.item(item, flags, at))
        return sequence(parts)

    def _after_end(self, anchor: tuple[Any, Any], after: Expression) -> Expression:
        """What may follow an anchor at the end of a part. In Python, but not in JavaScript, `$`
        also matches before a last line feed."""
        is_broad = not self.is_schema or self.is_broad
        if after != EMPTY and is_broad and str(anchor[1]) == "AT_END":
            return repeat(Char(LINE_FEED), 0, 1)
        return EMPTY

    def _looking_ahead(self, items: Items[Any], index: int, flags: int, edges: Edges) -> Expression:
        """A look-ahead: what it looks for must, or must not, be found in all that follows."""
        kind, (direction, inside) = str(items[index][0]), items[index][1]
        if direction < 0:
            raise GrammarError("groups that look behind, (?<=…) and (?<!…), can't be enforced")
        is_negative = kind == "ASSERT_NOT"
        reader = replace(self, is_broad=self.is_broad != is_negative)
        looked_for = reader.sequence(inside, flags, Edges(EMPTY, ANY_TEXT, False, True))
        rest = self.sequence(items[index + 1 :], flags, edges._replace(before=EMPTY, starts=False))
        found = both((without(looked_for) if is_negative else looked_for, rest))
        if not index:
            return sequence((edges.before, found))
        start = edges._replace(after=EMPTY, ends=False)
        return sequence((self.sequence(items[:index], flags, start), found))

    def item(self, item: tuple[Any, Any], flags: int, edges: Edges) -> Expression:
        name, value = str(item[0]), item[1]
        if name in _REFUSED:
            raise GrammarError(f"{_REFUSED[name]} can't be enforced")
        match name:
            case "BRANCH":
                return either(self.sequence(branch, flags, edges) for branch in value[1])
            case "SUBPATTERN":
                _, added, removed, inside = value
                return self.sequence(inside, (flags | added) & ~removed, edges)
            case "MAX_REPEAT" | "MIN_REPEAT":
                least, most, inside = value
                inner = self.sequence(inside, flags, _INSIDE)
                found = repeat(inner, least, None if most == _parser.MAXREPEAT else most)
            case "AT":
                anchor = _ANCHORS.get(str(value))
                if anchor is None:
                    raise GrammarError("\\b and \\B, ends of words, can't be enforced")
                raise GrammarError(f"{anchor} can only be enforced at the pattern's ends")
            case _:
                found = Char(self._chars(name, value, flags))
        return sequence((edges.before, found, edges.after))

    def _chars(self, name: str, value: Any, flags: int) -> CharSet:
        match name:
            case "ANY":
                is_narrow = self.is_schema and not self.is_broad
                line_ends = _ECMA_LINE_ENDS if is_narrow else LINE_FEED
                return ALL_CHARS if flags & re.DOTALL else ALL_CHARS - line_ends
            case "LITERAL":
                return self._cased(char_set([(value, value)]), flags)
            case "NOT_LITERAL":
                return ALL_CHARS - self._cased(char_set([(value, value)]), flags)
            case "IN":
                return self._class(value, flags)
            case _:
                raise GrammarError(f"{name.lower()} can't be enforced")

    def _class(self, items: Items[Any], flags: int) -> CharSet:
        is_negated = str(items[0][0]) == "NEGATE"
        found = NO_CHARS
        for kind, value in items[1:] if is_negated else items:
            match str(kind):
                case "LITERAL":
                    found |= char_set([(value, value)])
                case "RANGE":
                    found |= char_set([value])
                case _:
                    found |= self._category(str(value), flags, is_broad=self.is_broad != is_negated)
        found = self._cased(found, flags) & ALL_CHARS
        return ALL_CHARS - found if is_negated else found

    def _category(self, name: str, flags: int, *, is_broad: bool) -> CharSet:
        """The characters of a class such as `\\d`.

        Args:
            is_broad: whether characters on which JavaScript and Python disagree are in it.
        """
        *_, negation, kind = f"_{name}".split("_")
        letter = _LETTERS[kind]
        is_negated = negation == "NOT"
        if not self.is_schema:
            only = re.ASCII if flags & re.ASCII else re.NOFLAG
            return matching(f"\\{letter.upper() if is_negated else letter}", only)
        narrow = matching(f"\\{letter}", re.ASCII)
        if letter == "s":  # U+001C to U+001F are spaces in Python alone, with or without its flag
            narrow &= chars("\t\n\v\f\r ")
        broad = matching(f"\\{letter}") | (_BYTE_ORDER_MARK if letter == "s" else NO_CHARS)
        chosen = broad if is_broad != is_negated else narrow
        return ALL_CHARS - chosen if is_negated else chosen

    def _cased(self, found: CharSet, flags: int) -> CharSet:
        """The set with the other cases of its characters, where the flag `i` asks for them."""
        if not flags & re.IGNORECASE:
            return found
        return _in_any_case(found, bool(flags & re.ASCII))


@cache
def _in_any_case(found: CharSet, is_ascii: bool) -> CharSet:
    """The set with the other cases of its characters, as `re` decides for each. Only characters
    that have cases are tried."""
    if not found:
        return found
    flags = re.IGNORECASE | (re.ASCII if is_ascii else re.NOFLAG)
    ranges = "".join(f"{_escaped(low)}-{_escaped(high)}" for low, high in found.ranges)
    cased = characters_with_cases()
    return (found - chars(cased)) | chars("".join(re.findall(f"[{ranges}]", cased, flags)))


def _escaped(code: int) -> str:
    return f"\\U{code:08x}"


def _is_anchor(item: tuple[Any, Any], names: tuple[str, ...]) -> bool:
    return str(item[0]) == "AT" and str(item[1]) in names


def _has_anchor(item: tuple[Any, Any]) -> bool:
    """Whether an item may be anchored or look ahead at its edge."""
    match str(item[0]):
        case "AT" | "ASSERT" | "ASSERT_NOT":
            return True
        case "BRANCH":
            return any(_has_anchor(inner) for branch in item[1][1] for inner in branch)
        case "SUBPATTERN":
            return any(map(_has_anchor, item[1][3]))
        case _:
            return False
