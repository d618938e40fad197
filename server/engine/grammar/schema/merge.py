"""Schemas that must all hold, as one schema. Pure."""

import json
from typing import Any

from server.engine.grammar.schema.checks import JsonSchema, Path, is_of_type, types
from server.errors import GrammarError

_SMALLER = frozenset("maximum exclusiveMaximum maxLength maxItems maxProperties".split())
_LARGER = frozenset("minimum exclusiveMinimum minLength minItems minProperties".split())

_CLOSING = (
    ("additionalProperties", "properties"),
    ("additionalProperties", "patternProperties"),
    ("items", "prefixItems"),
)
"""Keywords for whatever the other keywords of the same schema don't name."""


def merged(first: Any, second: Any, path: Path, silent: frozenset[str]) -> JsonSchema:
    """A schema for the values that both allow.

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
    first, second = _without_null(first, second), _without_null(second, first)
    result = dict(first)
    for keyword, value in second.items():
        known = keyword in result and keyword not in silent
        result.setdefault(keyword, value)
        if known and written(result[keyword]) != written(value):
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
        texts = set(map(written, second))
        return [value for value in first if written(value) in texts]
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
    """Refuses a second schema whose rule for other properties would apply to properties that only
    the first one names."""
    for keyword, named in _CLOSING:
        if second.get(keyword, True) is True:
            continue
        if _names(first, named) - _names(second, named):
            reason = f"{keyword} of one schema beside {named} of another is not supported"
            raise GrammarError(reason, (*path, keyword))


def _names(schema: dict[str, Any], keyword: str) -> set[str]:
    """What a keyword names: properties and patterns by themselves, places of a list by number."""
    value = schema.get(keyword, ())
    return set(map(str, range(len(value)) if isinstance(value, list) else value))


def closed(branch: Any) -> Any:
    """A branch whose unevaluated properties are its additional ones: it knows nothing of the
    schemas beside it."""
    if not isinstance(branch, dict) or "unevaluatedProperties" not in branch:
        return branch
    rest = {name: value for name, value in branch.items() if name != "unevaluatedProperties"}
    return {"additionalProperties": branch["unevaluatedProperties"], **rest}


def written(value: Any) -> str:
    """A value's text, by which values are compared: in Python, True equals 1."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, sort_keys=True)


def _without_null(schema: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The schema without OpenAPI's `nullable` where the other's types or values exclude null."""
    if other.get("nullable") is True or not {"type", "const", "enum"} & other.keys():
        return schema
    return {keyword: value for keyword, value in schema.items() if keyword != "nullable"}


def common_types(first: Any, second: Any, path: Path) -> list[str]:
    """Types that both have; an integer is a number.

    Raises:
        GrammarError: they are no types.
    """
    left, right = types(first, path), types(second, path)
    found = [name for name in left if name in right or (name == "integer" and "number" in right)]
    found += [name for name in right if name == "integer" and "number" in left]
    return list(dict.fromkeys(found))
