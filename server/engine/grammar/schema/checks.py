"""Checks the values of keywords. Pure."""

from typing import Any, Protocol

from server.engine.grammar.schema.texts import Texts
from server.errors import GrammarError

JsonSchema = dict[str, Any] | bool
Path = tuple[str, ...]


class Converts(Protocol):
    """What keywords for arrays and objects need of `converter.py` to convert the schemas inside."""

    @property
    def texts(self) -> Texts: ...
    def convert(self, schema: Any, path: Path) -> JsonSchema: ...
    def resolve(self, schema: Any, path: Path = ()) -> Any: ...
    def values(self, schema: dict[str, Any], path: Path) -> list[Any]: ...


MAX_INTEGER = 2**53 - 1
"""The largest integer that every JSON reader keeps exactly."""


KEYWORDS_OF: dict[str, frozenset[str]] = {
    "object": frozenset(
        (
            "properties required additionalProperties minProperties maxProperties patternProperties"
            " propertyNames unevaluatedProperties"
        ).split()
    ),
    "array": frozenset(
        "items prefixItems additionalItems minItems maxItems uniqueItems unevaluatedItems".split()
    ),
    "string": frozenset("minLength maxLength pattern format contentEncoding".split()),
    "number": frozenset("minimum maximum exclusiveMinimum exclusiveMaximum multipleOf".split()),
    "integer": frozenset("minimum maximum exclusiveMinimum exclusiveMaximum multipleOf".split()),
    "boolean": frozenset(),
    "null": frozenset(),
}
"""The JSON types, and the keywords that constrain their values."""


def types(value: Any, path: Path) -> list[str]:
    """The value of `type` as a list.

    Raises:
        GrammarError: it names no JSON types.
    """
    found = value if isinstance(value, list) else [value]
    if not found or not all(isinstance(name, str) and name in KEYWORDS_OF for name in found):
        raise GrammarError("is no JSON type", (*path, "type"))
    return list(dict.fromkeys(found))


def counts(schema: dict[str, Any], names: tuple[str, ...], path: Path) -> dict[str, int]:
    """Reads the counts that a schema has under these names, of which the smaller comes first.

    Raises:
        GrammarError: one is no count, or the first is larger than the last.
    """
    found: dict[str, int] = {}
    for name in names:
        if name in schema:
            if not is_of_type(schema[name], "integer") or not 0 <= schema[name] <= MAX_INTEGER:
                raise GrammarError("must be a whole number, at least 0", (*path, name))
            found[name] = int(schema[name])
    values = [found[name] for name in names if name in found]
    if values != sorted(values):
        raise GrammarError(f"{names[0]} is larger than {names[-1]}", (*path, names[0]))
    return found


def number(value: Any, path: Path) -> float:
    """Reads a number.

    Raises:
        GrammarError: it is no number, or not every JSON reader keeps it.
    """
    if not is_of_type(value, "number") or abs(value) > MAX_INTEGER:
        raise GrammarError("must be a number within ±(2^53 - 1)", path)
    return value


def check_exact(value: Any, path: Path) -> None:
    """Checks a value that is to be written as it is.

    Raises:
        GrammarError: it has a number that not every reader keeps.
    """
    if isinstance(value, list | dict):
        for entry in [*value, *(value.values() if isinstance(value, dict) else ())]:
            check_exact(entry, path)
    elif is_of_type(value, "number") and abs(value) > MAX_INTEGER:
        raise GrammarError("numbers beyond 2^53 - 1 are not supported", path)


def is_of_type(value: Any, type_name: str) -> bool:
    """Whether a value has a type by JSON Schema's rules, where 1.0 is an integer."""
    match type_name:
        case "integer":
            whole = isinstance(value, float) and value.is_integer()
            return (isinstance(value, int) and not isinstance(value, bool)) or whole
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "null":
            return value is None
        case _:
            python = {"object": dict, "array": list, "string": str, "boolean": bool}
            return isinstance(value, python[type_name])


def names(value: Any, path: Path) -> list[str]:
    """Reads a list of names.

    Raises:
        GrammarError: it is none.
    """
    return [of_type(str, name, path) for name in of_type(list, value, path)]


def of_type(kind: type, value: Any, path: Path) -> Any:
    """Reads a value of a Python type.

    Raises:
        GrammarError: it is of another type.
    """
    if not isinstance(value, kind):
        shown = {dict: "an object", list: "a list", str: "a string"}
        raise GrammarError(f"must be {shown[kind]}", path)
    return value
