"""Keywords for numbers → what xgrammar enforces of them, or an expression of their texts. Pure."""

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

from server.engine.grammar.regular.expression import Expression
from server.engine.grammar.regular.syntax import python_pattern
from server.engine.grammar.schema.checks import MAX_INTEGER, Path, is_of_type, number
from server.errors import GrammarError

MAX_MULTIPLE = 1000
"""Largest multipleOf, and most multiples that are listed where there are limits."""
_LIMITS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_INT32 = 2**31

Numbers = dict[str, Any] | list[int | float] | Expression
"""A schema that xgrammar enforces, all numbers that are allowed, or how they are written."""


def number_schema(schema: dict[str, Any], path: Path) -> Numbers:
    """The schema of a number, whole or not.

    Raises:
        GrammarError: a keyword can't be enforced.
    """
    for name in _LIMITS:
        if name in schema:
            number(schema[name], (*path, name))
    if "multipleOf" in schema:
        return _multiples(schema, path)
    return {"type": "number"} | {name: schema[name] for name in _LIMITS if name in schema}


def integer_schema(schema: dict[str, Any], path: Path) -> Numbers:
    """The schema of an integer.

    Raises:
        GrammarError: a keyword can't be enforced.
    """
    least, most = _integers(schema, path)
    if "multipleOf" not in schema:
        return {"type": "integer", "minimum": least, "maximum": most}
    multiple = _multiple(schema, path)
    # Integers that are multiples of a/b in lowest terms are those of a.
    whole = multiple.as_integer_ratio()[0]
    if (least, most) == (-MAX_INTEGER, MAX_INTEGER):
        if whole > MAX_MULTIPLE:
            raise GrammarError(f"is supported from 1 to {MAX_MULTIPLE}", (*path, "multipleOf"))
        return {"type": "integer", "multipleOf": whole}
    if most == MAX_INTEGER and 0 <= least <= whole:
        pattern = _from_zero(whole, includes_zero=least == 0)
        if pattern is not None:
            return python_pattern(pattern)
    return _listed(Decimal(whole), Decimal(least), Decimal(most), path)


def _from_zero(multiple: int, *, includes_zero: bool) -> str | None:
    """A pattern of all multiples that aren't negative; None unless the last three digits tell."""
    count = next((n for n in range(1, 4) if 10**n % multiple == 0), None)
    if count is None:
        return None
    multiples = range(0, 10**count, multiple)
    short = "|".join(str(n) for n in multiples if n or includes_zero)
    ends = "|".join(f"{n:0{count}}" for n in multiples)
    few = f"{short}|" if short else ""
    return f"{few}[1-9][0-9]{{0,11}}(?:{ends})"


def _integers(schema: dict[str, Any], path: Path) -> tuple[int, int]:
    least, most = -MAX_INTEGER, MAX_INTEGER
    if schema.get("format") == "int32":
        least, most = -_INT32, _INT32 - 1
    limits = [name for name in _LIMITS if name in schema]
    for name in limits:
        value = number(schema[name], (*path, name))
        if name == "minimum":
            least = max(least, -int(-value // 1))
        elif name == "exclusiveMinimum":
            least = max(least, int(value // 1) + 1)
        elif name == "maximum":
            most = min(most, int(value // 1))
        else:
            most = min(most, -int(-value // 1) - 1)
    if least > most:
        raise GrammarError("no integer is left", (*path, limits[-1]))
    return least, most


def _multiple(schema: dict[str, Any], path: Path) -> Decimal:
    place = (*path, "multipleOf")
    if not is_of_type(schema["multipleOf"], "number") or schema["multipleOf"] <= 0:
        raise GrammarError("must be a number above 0", place)
    # By the number as written: 0.1 is exactly a tenth.
    return Decimal(repr(schema["multipleOf"]))


def _multiples(schema: dict[str, Any], path: Path) -> Numbers:
    """Numbers as people write them: without exponents, with no more decimals than needed."""
    multiple, place = _multiple(schema, path), (*path, "multipleOf")
    limits = {name: Decimal(repr(schema[name])) for name in _LIMITS if name in schema}
    if not limits and 1 < multiple <= MAX_MULTIPLE and multiple == multiple.to_integral_value():
        return {"type": "integer", "multipleOf": int(multiple)}
    if not limits or (set(limits) == {"minimum"} and limits["minimum"] == 0):
        sign = "" if limits else "-?"
        return python_pattern(f"(?a){sign}(?:0|[1-9]\\d{{0,14}}){_decimals(multiple, place)}")
    least = max((limits[n] for n in ("minimum", "exclusiveMinimum") if n in limits), default=None)
    most = min((limits[n] for n in ("maximum", "exclusiveMaximum") if n in limits), default=None)
    if least is None or most is None:
        reason = "multipleOf is supported with both limits, with minimum 0, or with none"
        raise GrammarError(reason, place)
    excluded = frozenset(limit for name, limit in limits.items() if name.startswith("exclusive"))
    return _listed(multiple, least, most, path, excluded)


def _decimals(multiple: Decimal, place: Path) -> str:
    """A pattern of what may follow the digits of an integer, for a multiple 1/n."""
    parts = 1 / multiple
    if parts != parts.to_integral_value() or parts > MAX_MULTIPLE * 1000:
        if multiple != multiple.to_integral_value():
            reason = "of a number it is supported for 1/n (0.01, 0.25), or with both limits"
            raise GrammarError(reason, place)
        raise GrammarError("of a number it is supported up to 1, or with both limits", place)
    if multiple == 1:
        return ""
    count = -int(multiple.normalize().as_tuple().exponent)
    if multiple == Decimal(1).scaleb(-count):
        return f"(?:\\.\\d{{1,{count}}})?"
    if parts > MAX_MULTIPLE:
        raise GrammarError(f"is supported down to 1/{MAX_MULTIPLE}", place)
    written = {str((i * multiple).normalize())[1:] for i in range(1, int(parts))}
    return "(?:" + "|".join(text.replace(".", "\\.") for text in sorted(written)) + ")?"


def _listed(
    multiple: Decimal,
    least: Decimal,
    most: Decimal,
    path: Path,
    excluded: frozenset[Decimal] = frozenset(),
) -> list[int | float]:
    """All multiples between the limits."""
    first = math.ceil(Fraction(least) / Fraction(multiple))
    last = math.floor(Fraction(most) / Fraction(multiple))
    place = (*path, "multipleOf")
    if last - first >= MAX_MULTIPLE:
        raise GrammarError(f"between these limits are more than {MAX_MULTIPLE} multiples", place)
    found = [i * multiple for i in range(first, last + 1) if i * multiple not in excluded]
    if not found:
        raise GrammarError("no number is left", place)
    return [int(n) if n == n.to_integral_value() else float(n) for n in found]
