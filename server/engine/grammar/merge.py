"""Schemas that must all hold, as one schema. Pure."""

from typing import Any

from server.engine.grammar.checks import JsonSchema, Path, is_of_type, types
from server.errors import GrammarError

_SMALLER = frozenset("maximum exclusiveMaximum maxLength maxItems maxProperties".split())
_LARGER = frozenset("minimum exclusiveMinimum minLength minItems minProperties".split())


def merged(first: Any, second: Any, path: Path, silent: frozenset[str]) -> JsonSchema:
    """Values that both allow.

    Args:
        silent: keywords that say nothing about values: those of the first are kept.

    Raises:
        GrammarError: it would take more than one schema to say that; the path ends with what can't
            be said twice.
    """
    if first is True or second is False:
        return second
    if first is False or second is True:
        return first
    if not isinstance(first, dict) or not isinstance(second, dict):
        raise GrammarError("is no schema: an object, true or false", path)
    _check_closed(first, second, path)
    _check_closed(second, first, path)
    result = dict(first)
    for keyword, value in second.items():
        known = keyword in result and keyword not in silent
        result.setdefault(keyword, value)
        if known and result[keyword] != value:
            result[keyword] = _of_both(keyword, result[keyword], value, path, silent)
    return result


def _of_both(keyword: str, first: Any, second: Any, path: Path, silent: frozenset[str]) -> Any:
    is_number = all(is_of_type(value, "number") for value in (first, second))
    if keyword == "type":
        found = common_types(first, second, path)
        if not found:
            raise GrammarError("no type is left", (*path, "type"))
        return found
    if keyword == "required" and isinstance(first, list) and isinstance(second, list):
        return list(dict.fromkeys([*first, *second]))
    if keyword == "enum" and isinstance(first, list) and isinstance(second, list):
        return [value for value in first if value in second]
    if keyword in _SMALLER and is_number:
        return min(first, second)
    if keyword in _LARGER and is_number:
        return max(first, second)
    place = (*path, keyword)
    if keyword == "properties" and isinstance(first, dict) and isinstance(second, dict):
        shared = {
            name: merged(first[name], second[name], (*place, name), silent)
            for name in first
            if name in second
        }
        return first | second | shared
    if keyword in ("items", "additionalProperties"):
        return merged(first, second, place, silent)
    raise GrammarError(f"{keyword} is said twice, and not the same", place)


def _check_closed(first: dict[str, Any], second: dict[str, Any], path: Path) -> None:
    """What the second says of other properties must not concern those of the first alone."""
    if "additionalProperties" not in second or second["additionalProperties"] is True:
        return
    others = set(first.get("properties", ())) - set(second.get("properties", ()))
    if others:
        reason = "additionalProperties of one schema beside properties of another is not supported"
        raise GrammarError(reason, (*path, "additionalProperties"))


def common_types(first: Any, second: Any, path: Path) -> list[str]:
    """Types that both have; an integer is a number.

    Raises:
        GrammarError: they are no types.
    """
    left, right = types(first, path), types(second, path)
    found = [name for name in left if name in right or (name == "integer" and "number" in right)]
    found += [name for name in right if name == "integer" and "number" in left]
    return list(dict.fromkeys(found))
