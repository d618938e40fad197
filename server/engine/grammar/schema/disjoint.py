"""Whether schemas exclude each other, so that `oneOf` means no more than `anyOf`. Pure.

Takes time in proportion to the schemas' text: a client chooses how many there are.
"""

import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

_ALL = frozenset({"object", "array", "string", "number", "boolean", "null"})
MAX_COMPARED = 32
"""Objects that no common property tells apart are compared pair by pair up to this many."""

_Values = frozenset[str] | None
"""The only valid values, written as JSON; None where there are others."""


def are_disjoint(schemas: Sequence[Any], resolve: Callable[[Any], Any]) -> bool:
    """Whether no value can match two of them, as far as that is easily seen: by types, by the
    values of `const` and `enum`, or by those of a property that all of them require.

    Args:
        resolve: follows references.
    """
    if len(schemas) < 2:
        return True
    found = [resolve(schema) for schema in schemas]
    if not all(isinstance(schema, dict) for schema in found):
        return False
    closed, of_type = list[frozenset[str]](), dict[str, list[dict[str, Any]]]()
    for schema in found:
        values = _values(schema)
        if values is not None:
            closed.append(values)
        else:
            for name in _types(schema):
                of_type.setdefault(name, []).append(schema)
    if not _are_distinct(closed):
        return False
    closed_types = {_type_of(json.loads(value)) for value in set[str]().union(*closed)}
    if not closed_types.isdisjoint(of_type):
        return False
    return all(
        len(those) == 1 or (name == "object" and _objects_differ(those, resolve))
        for name, those in of_type.items()
    )


def _objects_differ(schemas: Sequence[dict[str, Any]], resolve: Callable[[Any], Any]) -> bool:
    if not all(schema.get("type") == "object" for schema in schemas):
        return False
    kinds = [_required_values(schema, resolve) for schema in schemas]
    common = set(kinds[0]).intersection(*kinds[1:])
    if any(_are_distinct(kind[name] for kind in kinds) for name in common):
        return True
    return len(kinds) <= MAX_COMPARED and all(
        any(a[name].isdisjoint(b[name]) for name in a.keys() & b.keys())
        for a, b in itertools.combinations(kinds, 2)
    )


def _required_values(
    schema: dict[str, Any], resolve: Callable[[Any], Any]
) -> dict[str, frozenset[str]]:
    """The values of each required property that lists its values."""
    properties, required = schema.get("properties", {}), schema.get("required", ())
    if not isinstance(properties, dict) or not isinstance(required, list):
        return {}
    found = dict[str, frozenset[str]]()
    for name in required:
        entry = resolve(properties.get(name)) if isinstance(name, str) else None
        values = _values(entry) if isinstance(entry, dict) else None
        if values is not None:
            found[name] = values
    return found


def _are_distinct(sets: Iterable[frozenset[str]]) -> bool:
    """Whether no value is in two of the sets."""
    seen = set[str]()
    for values in sets:
        if not seen.isdisjoint(values):
            return False
        seen |= values
    return True


def _types(schema: dict[str, Any]) -> frozenset[str]:
    given = schema.get("type", list(_ALL))
    names = given if isinstance(given, list) else [given]
    return frozenset("number" if name == "integer" else str(name) for name in names)


def _values(schema: dict[str, Any]) -> _Values:
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
