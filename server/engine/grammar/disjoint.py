"""Whether schemas exclude each other, so that `oneOf` means no more than `anyOf`. Pure."""

import itertools
import json
from collections.abc import Callable, Sequence
from typing import Any

_ALL = frozenset({"object", "array", "string", "number", "boolean", "null"})


def are_disjoint(schemas: Sequence[Any], resolve: Callable[[Any], Any]) -> bool:
    """Whether no value can match two of them, as far as that is easily seen: by types, by the
    values of `const` and `enum`, or by those of a property that all of them require.

    Args:
        resolve: follows references.
    """
    found = [resolve(schema) for schema in schemas]
    return all(_exclude(a, b, resolve) for a, b in itertools.combinations(found, 2))


def _exclude(a: Any, b: Any, resolve: Callable[[Any], Any]) -> bool:
    if not isinstance(a, dict) or not isinstance(b, dict):
        return False
    if _types(a).isdisjoint(_types(b)):
        return True
    values_a, values_b = _values(a), _values(b)
    if values_a is not None and values_b is not None and values_a.isdisjoint(values_b):
        return True
    if a.get("type") != "object" or b.get("type") != "object":
        return False
    shared = [name for name in a.get("required", ()) if name in b.get("required", ())]
    return any(_tells_apart(name, a, b, resolve) for name in shared)


def _tells_apart(
    name: str, a: dict[str, Any], b: dict[str, Any], resolve: Callable[[Any], Any]
) -> bool:
    sides = [resolve(side.get("properties", {}).get(name)) for side in (a, b)]
    if not all(isinstance(side, dict) for side in sides):
        return False
    values = [_values(side) for side in sides]
    return values[0] is not None and values[1] is not None and values[0].isdisjoint(values[1])


def _types(schema: dict[str, Any]) -> frozenset[str]:
    values = _values(schema)
    if values is not None:
        return frozenset(_type_of(json.loads(value)) for value in values)
    given = schema.get("type", list(_ALL))
    names = given if isinstance(given, list) else [given]
    return frozenset("number" if name == "integer" else str(name) for name in names)


def _values(schema: dict[str, Any]) -> frozenset[str] | None:
    """The only valid values, written as JSON; None where there are others."""
    if "const" in schema:
        return frozenset({_written(schema["const"])})
    if isinstance(schema.get("enum"), list):
        return frozenset(_written(value) for value in schema["enum"])
    return None


def _written(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, sort_keys=True)


def _type_of(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    names = {dict: "object", list: "array", str: "string", type(None): "null"}
    return names[type(value)]
