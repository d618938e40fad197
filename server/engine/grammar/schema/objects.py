"""Keywords for objects. Pure."""

import re
from typing import Any

from server.engine.grammar.regular.automaton import derivative
from server.engine.grammar.regular.expression import (
    ANY_TEXT,
    Expression,
    both,
    either,
    is_nullable,
    text,
    without,
)
from server.engine.grammar.schema.checks import Converts, JsonSchema, Path, counts, names, of_type
from server.engine.grammar.schema.merge import merged
from server.engine.grammar.schema.strings import pattern_texts, string_texts
from server.errors import GrammarError


def object_schema(converter: Converts, schema: dict[str, Any], path: Path) -> JsonSchema:
    """The enforceable schema of an object.

    Raises:
        GrammarError: a keyword can't be enforced.
    """
    return _Object(converter, schema, path).made()


class _Object:
    def __init__(self, converter: Converts, schema: dict[str, Any], path: Path) -> None:
        self.converter, self.schema, self.path = converter, schema, path
        self.required = names(schema.get("required", []), (*path, "required"))
        self.patterns = of_type(
            dict, schema.get("patternProperties", {}), (*path, "patternProperties")
        )
        self.pattern_texts = {
            pattern: pattern_texts(pattern, (*path, "patternProperties", pattern))
            for pattern in self.patterns
        }
        self.allowed_names, self.listed_names = self._allowed_names()
        self.properties = self._properties()

    def made(self) -> JsonSchema:
        """What xgrammar enforces."""
        more = self._more()
        made = {name: self._property(name) for name in self.properties}
        result: dict[str, Any] = {"type": "object", "additionalProperties": False}
        if made:
            result |= {"properties": made, "required": list(dict.fromkeys(self.required))}
        if more is True:
            result["additionalProperties"] = {}
        elif more:
            result["patternProperties"] = more
        return result | self._counts(is_open=bool(more), num_named=len(made))

    def _allowed_names(self) -> tuple[Expression, list[str] | None]:
        """What `propertyNames` allows, and the list of these names where it lists them."""
        schema, place = self.schema.get("propertyNames", True), (*self.path, "propertyNames")
        schema = self.converter.resolve(schema, place)
        if schema is True or schema == {}:
            return ANY_TEXT, None
        if not isinstance(schema, dict):
            raise GrammarError("is only supported as an object", place)
        if "enum" in schema or "const" in schema:
            listed = [v for v in self.converter.values(schema, place) if isinstance(v, str)]
            return either(map(text, listed)), listed
        beside = set(schema) & {"anyOf", "oneOf", "allOf", "not", "if", "$ref"}
        if beside or schema.get("type", "string") != "string":
            raise GrammarError("is only supported with keywords for strings, enum or const", place)
        return string_texts(schema, place), None

    def _properties(self) -> dict[str, Any]:
        """The declared properties, and those that are required."""
        place = (*self.path, "properties")
        declared = of_type(dict, self.schema.get("properties", {}), place)
        found = {
            name: entry
            for name, entry in declared.items()
            if name in self.required or (entry is not False and self._may_be_named(name))
        }
        undeclared = [name for name in (self.listed_names or []) if self._additional() is not False]
        for name in [*self.required, *undeclared]:
            if name not in found:
                found[name] = self._undeclared(name)
        for name in self.required:
            if not self._may_be_named(name):
                raise GrammarError(
                    f"{name[:80]!r} is required, but no property of that name is allowed",
                    (*self.path, "required"),
                )
        return found

    def _may_be_named(self, name: str) -> bool:
        return _allows(self.allowed_names, name)

    def _undeclared(self, name: str) -> Any:
        matching = [p for p in self.patterns if re.search(p, name)]
        if matching:
            return True  # what the patterns say is added to every property
        additional = self._additional()
        if self.schema.get("additionalProperties") is False:
            reason = f"{name[:80]!r} is required, but no property of that name is allowed"
            raise GrammarError(reason, (*self.path, "required"))
        return True if additional is False else additional

    def _property(self, name: str) -> JsonSchema:
        entry = self.properties[name]
        place = (*self.path, "properties", name)
        for pattern in self.patterns:
            if re.search(pattern, name):
                entry = merged(
                    self.converter.resolve(entry, place),
                    self.converter.resolve(self.patterns[pattern], place),
                    place,
                    frozenset(),
                )
        if name not in self.schema.get("properties", {}):
            place = (*self.path, "additionalProperties")
        return self.converter.convert(entry, place)

    def _additional(self) -> Any:
        """The rule for additional properties. Without one, declared properties are all that is
        allowed, as at OpenAI."""
        if "additionalProperties" in self.schema:
            return self.schema["additionalProperties"]
        if self.schema.get("unevaluatedProperties") is not None:
            return self.schema["unevaluatedProperties"]
        said = ("properties" in self.schema, self.required, self.patterns)
        return not any(said)

    def _more(self) -> dict[str, JsonSchema] | bool:
        """Schemas of properties that the schema does not name, by pattern; true for any."""
        texts, path = self.converter.texts, self.path
        # A property that is declared as false is not an additional one.
        named = dict.fromkeys([*self.schema.get("properties", {}), *self.properties])
        others = [without(either(map(text, named)))] if named else []
        others.append(self.allowed_names)
        found: dict[str, JsonSchema] = {}
        for pattern, entry in self.patterns.items():
            place = (*path, "patternProperties", pattern)
            if entry is False:
                continue
            # A key that two patterns match would have to fit both schemas, so it is left out.
            rivals = [without(t) for p, t in self.pattern_texts.items() if p != pattern]
            keys = both([self.pattern_texts[pattern], *rivals, *others])
            found[texts.key(keys, place)] = self.converter.convert(entry, place)
        additional = self._additional()
        if additional is False or (self.listed_names is not None):
            return found
        place = (*path, "additionalProperties")
        extra = self.converter.convert(additional, place)
        keys = both([*map(without, self.pattern_texts.values()), *others])
        if keys == ANY_TEXT and extra == {}:
            return True
        found[texts.key(keys, place)] = extra
        return found

    def _counts(self, *, is_open: bool, num_named: int) -> dict[str, int]:
        found = counts(self.schema, ("minProperties", "maxProperties"), self.path)
        # An additional property may be written twice and then counts once.
        certain = max(len(set(self.required)), 1) if is_open else num_named
        if found.get("minProperties", 0) > certain:
            reason = "minProperties is only supported up to the number of declared properties"
            raise GrammarError(reason, (*self.path, "minProperties"))
        return found


def _allows(expression: Expression, value: str) -> bool:
    for char in value:
        expression = derivative(expression, char)
    return is_nullable(expression)
