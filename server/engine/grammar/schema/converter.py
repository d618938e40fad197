"""JSON schemas → schemas that xgrammar enforces to the letter. Pure.

xgrammar leaves out keywords that it doesn't know, most without a word. Here every keyword that JSON
Schema knows as a condition is either known to be enforced, rewritten so that it is, without
influence by JSON Schema's own rules, or refused by name; all others are annotations. Answers are
then always valid; not every valid document can be an answer:

    properties come in the order of the schema; those it doesn't name only with additionalProperties
    characters of a string are escaped only where they must be
    integers lie within ±(2^53 - 1), where nothing else is said
    of values that must be unique, few are listed in any order, more in the order of the schema
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote

from server.engine.grammar.regular.expression import ANY_TEXT
from server.engine.grammar.schema.arrays import array_schema
from server.engine.grammar.schema.checks import (
    KEYWORDS_OF,
    JsonSchema,
    Path,
    check_exact,
    is_of_type,
    of_type,
    types,
)
from server.engine.grammar.schema.disjoint import are_disjoint
from server.engine.grammar.schema.merge import closed, common_types, merged, written
from server.engine.grammar.schema.numbers import Numbers, integer_schema, number_schema
from server.engine.grammar.schema.objects import object_schema
from server.engine.grammar.schema.strings import string_texts
from server.engine.grammar.schema.texts import Texts
from server.errors import GrammarError

MAX_DEPTH = 64
"""Most names in the path to a schema inside the schema."""

_UNENFORCED = frozenset(
    (
        "not if dependentRequired dependentSchemas dependencies contains minContains maxContains"
        " $dynamicRef $recursiveRef"
    ).split()
)
"""Conditions that no grammar made here enforces."""
_TYPED = frozenset().union(*KEYWORDS_OF.values())
_BRANCHED = ("$ref", "anyOf", "oneOf", "allOf")
_CONDITIONS = _TYPED | _UNENFORCED | {*_BRANCHED, "const", "enum", "type", "nullable"}


class Enforceable(NamedTuple):
    """What xgrammar gets, and the rules to put into what it makes of that."""

    schema: JsonSchema
    texts: Texts


def enforceable(schema: JsonSchema) -> Enforceable:
    """Makes a schema enforceable.

    Raises:
        GrammarError: a keyword can't be enforced; the path ends with it.
    """
    converter = Converter(schema)
    made = converter.convert(schema, ())
    if converter.definitions:
        inside = made if isinstance(made, dict) else {}
        made = {**inside, "$defs": converter.definitions}
    return Enforceable(made, converter.texts)


class Converter:
    """Converts one schema with everything in it.

    Args:
        root: what references lead into.
    """

    def __init__(self, root: JsonSchema) -> None:
        self.root = root
        self.texts = Texts(root)
        self.definitions: dict[str, JsonSchema] = {}
        self._defined: dict[tuple[str, ...], str] = {}

    def convert(self, schema: Any, path: Path) -> JsonSchema:
        """Converts one schema inside the root.

        Raises:
            GrammarError: a keyword can't be enforced; the path ends with it.
        """
        if len(path) > MAX_DEPTH:
            raise GrammarError(f"the schema is nested deeper than {MAX_DEPTH} names", path)
        if schema is True:
            return {}
        if schema is False:
            raise GrammarError("nothing is valid here", path)
        if not isinstance(schema, dict):
            raise GrammarError("is no schema: an object, true or false", path)
        refused = next((keyword for keyword in schema if keyword in _UNENFORCED), None)
        if refused is not None:
            raise GrammarError(f"{refused} is not supported", (*path, refused))
        if schema.get("nullable") is True:
            return self._nullable(schema, path)
        if "const" in schema or "enum" in schema:
            return self.texts.listed(self.values(schema, path))
        branched = next((keyword for keyword in _BRANCHED if keyword in schema), None)
        if branched is not None:
            return self._branched(branched, schema, path)
        return self._typed(schema, path)

    def _nullable(self, schema: dict[str, Any], path: Path) -> JsonSchema:
        """Applies OpenAPI 3.0's `nullable`: null is allowed too, unless it is missing from listed
        values."""
        inside = {keyword: value for keyword, value in schema.items() if keyword != "nullable"}
        if "type" in inside:
            given = types(inside["type"], path)
            return self.convert({**inside, "type": [*given, "null"]}, path)
        if "const" in inside or "enum" in inside or not _CONDITIONS & inside.keys():
            return self.convert(inside, path)
        return {"anyOf": [self.convert(inside, path), {"type": "null"}]}

    def values(self, schema: dict[str, Any], path: Path) -> list[Any]:
        """The only ones that a schema with `const` or `enum` allows.

        Raises:
            GrammarError: they can't be enforced, or there are none.
        """
        keyword = "const" if "const" in schema else "enum"
        place = (*path, keyword)
        values = [schema[keyword]] if keyword == "const" else of_type(list, schema[keyword], place)
        if keyword == "const" and "enum" in schema:
            texts = set(map(written, of_type(list, schema["enum"], (*path, "enum"))))
            values = [v for v in values if written(v) in texts]
        # A type beside the values is enforced: it takes some of them away.
        silent = {keyword, "type", "const", "enum"}
        beside = next((k for k in schema if k in _CONDITIONS and k not in silent), None)
        if beside is not None:
            raise GrammarError(f"{beside} beside {keyword} is not supported", (*path, beside))
        if "type" in schema:
            kinds = types(schema["type"], path)
            values = [v for v in values if any(is_of_type(v, kind) for kind in kinds)]
        if not values:
            raise GrammarError("no value is left", place)
        for value in values:
            check_exact(value, place)
        return values

    def _branched(self, keyword: str, schema: dict[str, Any], path: Path) -> JsonSchema:
        """Merges what stands beside the keyword into each of its branches."""
        beside = {k: v for k, v in schema.items() if k in _CONDITIONS and k != keyword}
        if keyword == "$ref":
            target = self.resolve({"$ref": schema["$ref"]}, path)
            if not beside or _says_as_much(target, beside):
                return {"$ref": self._reference(schema["$ref"], (*path, "$ref"))}
            return self.convert(self._with(target, beside, path), path)
        branches = of_type(list, schema[keyword], (*path, keyword))
        if not branches:
            raise GrammarError(f"{keyword} is empty", (*path, keyword))
        if keyword == "allOf":
            return self._all_of(branches, beside, path)
        if keyword == "oneOf" and not are_disjoint(branches, self.resolve):
            reason = "oneOf is only supported where no value can match two of its schemas"
            raise GrammarError(reason, (*path, keyword))
        places = [(*path, keyword, str(index)) for index in range(len(branches))]
        found = zip(branches, places, strict=True)
        if beside:
            # A branch whose types exclude those beside it is dropped.
            found = [(self._with(b, beside, p), p) for b, p in found if self._fits(b, beside, p)]
            if not found:
                raise GrammarError("no type is left", (*path, "type"))
        return {"anyOf": [self.convert(branch, place) for branch, place in found]}

    def _fits(self, branch: Any, beside: dict[str, Any], path: Path) -> bool:
        branch = self.resolve(branch, path)
        if not isinstance(branch, dict) or "type" not in branch or "type" not in beside:
            return True
        return bool(common_types(branch["type"], beside["type"], path))

    def _all_of(self, branches: Sequence[Any], beside: dict[str, Any], path: Path) -> JsonSchema:
        if len(branches) == 1 and not beside:
            return self.convert(branches[0], (*path, "allOf", "0"))
        found: JsonSchema = beside or True
        for index, branch in enumerate(branches):
            place = (*path, "allOf", str(index))
            found = merged(found, closed(self.resolve(branch, place)), place, _SILENT)
        return self.convert(found, path)

    def _with(self, branch: Any, beside: dict[str, Any], path: Path) -> JsonSchema:
        return merged(closed(self.resolve(branch, path)), beside, path, _SILENT)

    def resolve(self, schema: Any, path: Path = ()) -> Any:
        """What a reference, or a chain of them, stands for; any other schema is returned as it
        is."""
        seen = set[str]()
        while isinstance(schema, dict) and "$ref" in schema:
            reference, place = schema["$ref"], (*path, "$ref")
            # "#name" refers to an anchor, and is no path into the schema.
            if not isinstance(reference, str) or not f"{reference}/".startswith("#/"):
                raise GrammarError("only references into the schema itself are supported", place)
            if reference in seen:
                raise GrammarError("the reference leads to itself", place)
            seen.add(reference)
            beside = {k: v for k, v in schema.items() if k in _CONDITIONS and k != "$ref"}
            schema = self._at(reference, place)
            if beside:
                schema = merged(closed(schema), beside, path, _SILENT)
        return schema

    def _at(self, reference: str, path: Path) -> Any:
        found: Any = self.root
        for part in _names_of(reference):
            if isinstance(found, list) and re.fullmatch("[0-9]{1,9}", part):
                found = dict(enumerate(found)).get(int(part))
            else:
                found = found.get(part) if isinstance(found, dict) else None
            if found is None:
                raise GrammarError(f"there is no {reference[:80]}", path)
        return found

    def _reference(self, reference: str, path: Path) -> str:
        """A reference to a definition under a new name, since xgrammar doesn't take all names."""
        names = _names_of(reference)
        key = tuple(names)
        if key not in self._defined:
            self._defined[key] = f"d{len(self._defined)}"
            converted = self.convert(self._at(reference, path), key)
            self.definitions[self._defined[key]] = converted
        return f"#/$defs/{self._defined[key]}"

    def _typed(self, schema: dict[str, Any], path: Path) -> JsonSchema:
        kinds = types(schema["type"], path) if "type" in schema else _implied(schema)
        if not kinds:
            return {}
        made = [self._of_type(kind, schema, path) for kind in kinds]
        return made[0] if len(made) == 1 else {"anyOf": made}

    def _of_type(self, kind: str, schema: dict[str, Any], path: Path) -> JsonSchema:
        match kind:
            case "object":
                return object_schema(self, schema, path)
            case "array":
                return array_schema(self, schema, path)
            case "string":
                found = string_texts(schema, path)
                return {"type": "string"} if found == ANY_TEXT else self.texts.value(found, path)
            case "number":
                return self._number(number_schema(schema, path), path)
            case "integer":
                return self._number(integer_schema(schema, path), path)
            case _:
                return {"type": kind}

    def _number(self, made: Numbers, path: Path) -> JsonSchema:
        if isinstance(made, list):
            return self.texts.listed(made)
        return made if isinstance(made, dict) else self.texts.bare_value(made, path)


_SILENT = frozenset({"title", "description", "default", "examples", "example", "deprecated"})


def _implied(schema: dict[str, Any]) -> list[str]:
    """Types whose keywords are there, although a value of any other type would be valid too."""
    silent = {"format"}  # is used for numbers too
    return [
        name
        for name, keywords in KEYWORDS_OF.items()
        if name != "integer" and not (keywords - silent).isdisjoint(schema)
    ] or (["string"] if "format" in schema else [])


def _says_as_much(target: Any, beside: dict[str, Any]) -> bool:
    """Whether the schema by itself allows nothing that a type beside it forbids."""
    if beside.keys() != {"type"} or not isinstance(target, dict):
        return False
    return "type" in target and target["type"] in (beside["type"], [beside["type"]])


def _names_of(reference: str) -> list[str]:
    """The names in a JSON pointer."""
    parts = unquote(reference[1:]).split("/")[1:]
    return [part.replace("~1", "/").replace("~0", "~") for part in parts]
