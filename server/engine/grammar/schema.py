"""JSON schemas → schemas that xgrammar enforces to the letter. Pure.

xgrammar leaves out keywords that it doesn't know, most without a word. Here every keyword is either
known to be enforced, rewritten so that it is, without influence by JSON Schema's own rules, or
refused by name. Answers are then always valid; not every valid document can be an answer:

    properties come in the order of the schema; those it doesn't name only with additionalProperties
    strings with a length or a pattern have no characters that must be escaped
    integers lie within ±(2^53 - 1), where nothing else is said
    a pattern matches the whole text
"""

from collections.abc import Callable
from typing import Any

from server.engine.grammar.disjoint import are_disjoint
from server.engine.grammar.pattern import check_pattern
from server.errors import GrammarError

JsonSchema = dict[str, Any] | bool
Path = tuple[str, ...]

MAX_DEPTH = 64
"""Names on the way to a schema inside of the schema."""
MAX_LENGTH = 1000
"""Of strings with a length: compiling takes time in proportion to it."""
MAX_MULTIPLE = 1000
MAX_INTEGER = 2**53 - 1
"""What every JSON reader keeps exactly."""

FORMATS = frozenset(
    "date-time time date duration email hostname ipv4 ipv6 uuid uri uri-reference uri-template"
    " json-pointer relative-json-pointer".split()
)
_ANNOTATIONS = frozenset(
    "title description default examples example deprecated readOnly writeOnly $schema $comment $id"
    " discriminator $defs definitions".split()
)
"""Say nothing about what is valid, or are looked at elsewhere."""
_KEYWORDS_OF: dict[str, frozenset[str]] = {
    "object": frozenset(
        (
            "properties required additionalProperties minProperties maxProperties patternProperties"
        ).split()
    ),
    "array": frozenset("items prefixItems minItems maxItems uniqueItems".split()),
    "string": frozenset("minLength maxLength pattern format".split()),
    "number": frozenset("minimum maximum exclusiveMinimum exclusiveMaximum multipleOf".split()),
    "integer": frozenset("minimum maximum exclusiveMinimum exclusiveMaximum multipleOf".split()),
    "boolean": frozenset(),
    "null": frozenset(),
}
_TYPED = frozenset().union(*_KEYWORDS_OF.values())
_WHOLE = ("$ref", "const", "enum", "anyOf", "oneOf", "allOf")
"""Keywords that stand alone: xgrammar leaves out what is beside them."""


def enforceable(schema: JsonSchema) -> JsonSchema:
    """The schema that xgrammar gets.

    Raises:
        GrammarError: a keyword can't be enforced; the path ends with it.
    """
    return _Converter(schema).convert(schema, ())


class _Converter:
    def __init__(self, root: JsonSchema) -> None:
        self.root = root

    def convert(self, schema: Any, path: Path) -> JsonSchema:
        if len(path) > MAX_DEPTH:
            raise GrammarError(f"the schema is nested deeper than {MAX_DEPTH} names", path)
        if schema is True:
            return {}
        if schema is False:
            raise GrammarError("nothing is valid here", path)
        if not isinstance(schema, dict):
            raise GrammarError("is no schema: an object, true or false", path)
        self._refuse_unknown(schema, path)
        result = self._definitions(schema, path)
        for keyword in _WHOLE:
            if keyword in schema:
                return result | self._whole(keyword, schema, path)
        return result | self._typed(schema, path)

    def _refuse_unknown(self, schema: dict[str, Any], path: Path) -> None:
        for keyword in schema:
            known = keyword in _ANNOTATIONS or keyword in _TYPED or keyword in (*_WHOLE, "type")
            if not known and not keyword.startswith("x-"):
                raise GrammarError(f"{keyword} is not supported", (*path, keyword))

    def _definitions(self, schema: dict[str, Any], path: Path) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for keyword in ("$defs", "definitions"):
            if keyword in schema:
                entries = _of_type(dict, schema[keyword], (*path, keyword))
                result[keyword] = {
                    name: self.convert(entry, (*path, keyword, name))
                    for name, entry in entries.items()
                }
        return result

    def _whole(self, keyword: str, schema: dict[str, Any], path: Path) -> dict[str, Any]:
        silent = {keyword, *_ANNOTATIONS}
        beside = [k for k in schema if k not in silent and not k.startswith("x-")]
        if keyword in ("const", "enum"):
            # A type beside the values can be honoured: it takes some of them away.
            beside = [k for k in beside if k != "type"]
        if beside:
            raise GrammarError(f"{beside[0]} beside {keyword} is not supported", (*path, beside[0]))
        place = (*path, keyword)
        match keyword:
            case "$ref":
                self.resolve(schema, path)
                return {"$ref": schema["$ref"]}
            case "const" | "enum":
                return self._values(keyword, schema, path)
            case "allOf":
                branches = self._branches(schema, keyword, path)
                if len(branches) > 1:
                    raise GrammarError("more than one schema in allOf is not supported", place)
                return {"anyOf": branches}
            case _:
                branches = self._branches(schema, keyword, path)
                if keyword == "oneOf" and not are_disjoint(schema[keyword], self.resolve):
                    reason = "oneOf is only supported where no value can match two of its schemas"
                    raise GrammarError(reason, place)
                return {"anyOf": branches}

    def _branches(self, schema: dict[str, Any], keyword: str, path: Path) -> list[JsonSchema]:
        entries = _of_type(list, schema[keyword], (*path, keyword))
        if not entries:
            raise GrammarError(f"{keyword} is empty", (*path, keyword))
        return [self.convert(e, (*path, keyword, str(i))) for i, e in enumerate(entries)]

    def resolve(self, schema: Any, path: Path = ()) -> Any:
        """What a reference, or a chain of them, stands for; another schema itself."""
        seen = set[str]()
        while isinstance(schema, dict) and "$ref" in schema:
            reference, place = schema["$ref"], (*path, "$ref")
            if not isinstance(reference, str) or not reference.startswith("#"):
                raise GrammarError("only references into the schema itself are supported", place)
            if reference in seen:
                raise GrammarError("the reference leads to itself", place)
            seen.add(reference)
            schema = self._at(reference, place)
        return schema

    def _at(self, reference: str, path: Path) -> Any:
        found: Any = self.root
        parts = reference[1:].split("/")[1:]
        if parts and (len(parts) != 2 or parts[0] not in ("$defs", "definitions")):
            raise GrammarError("only references to #, #/$defs/… and #/definitions/… work", path)
        for part in parts:
            if not isinstance(found, dict) or part not in found:
                raise GrammarError(f"there is no {reference[:80]}", path)
            found = found[part]
        return found

    def _values(self, keyword: str, schema: dict[str, Any], path: Path) -> dict[str, Any]:
        place = (*path, keyword)
        values = schema[keyword] if keyword == "enum" else [schema[keyword]]
        if "type" in schema:
            types = _types(schema["type"], path)
            values = [v for v in _of_type(list, values, place) if any(_is(v, t) for t in types)]
        if not _of_type(list, values, place):
            raise GrammarError("no value is left", place)
        for value in values:
            _check_exact(value, place)
        return {"enum": values}

    def _typed(self, schema: dict[str, Any], path: Path) -> dict[str, Any]:
        types = _types(schema["type"], path) if "type" in schema else _implied(schema)
        if not types:
            return {}
        convert: dict[str, Callable[[dict[str, Any], Path], dict[str, Any]]] = {
            "object": self._object,
            "array": self._array,
            "string": _string,
            "number": _number,
            "integer": _integer,
        }
        made = [
            {"type": name} | (convert[name](schema, path) if name in convert else {})
            for name in types
        ]
        return made[0] if len(made) == 1 else {"anyOf": made}

    def _array(self, schema: dict[str, Any], path: Path) -> dict[str, Any]:
        result: dict[str, Any] = {}
        if schema.get("uniqueItems"):
            raise GrammarError("uniqueItems is not supported", (*path, "uniqueItems"))
        if "items" in schema:
            items = schema["items"]
            place = (*path, "items")
            result["items"] = False if items is False else self.convert(items, place)
        if "prefixItems" in schema:
            result["prefixItems"] = self._branches(schema, "prefixItems", path)
        result |= _counts(schema, ("minItems", "maxItems"), path)
        fewest = result.get("minItems", 0)
        if "items" not in result and fewest > len(result.get("prefixItems", ())):
            result["items"] = {}
        return result

    def _object(self, schema: dict[str, Any], path: Path) -> dict[str, Any]:
        if "patternProperties" in schema:
            return self._pattern_object(schema, path)
        properties = _of_type(dict, schema.get("properties", {}), (*path, "properties"))
        required = _names(schema.get("required", []), (*path, "required"))
        # Where nothing is said, nothing is added to declared properties; like OpenAI.
        says_nothing = "properties" not in schema and not required
        additional = schema.get("additionalProperties", says_nothing)
        made: dict[str, JsonSchema] = {
            name: self.convert(entry, (*path, "properties", name))
            for name, entry in properties.items()
            if entry is not False or name in required
        }
        extra: JsonSchema = False
        if additional is not False:
            extra = self.convert(additional, (*path, "additionalProperties"))
        for name in required:
            if name not in made:
                if schema.get("additionalProperties") is False:
                    reason = f"{name[:80]!r} is required, but no property of that name is allowed"
                    raise GrammarError(reason, (*path, "required"))
                made[name] = {} if extra is False else extra
        result: dict[str, Any] = {"additionalProperties": extra}
        if made:
            result |= {"properties": made, "required": required}
        counts = _counts(schema, ("minProperties", "maxProperties"), path)
        # An additional property may be repeated, which makes one of two.
        certain = max(len(required), 1) if extra is not False else len(made)
        if counts.get("minProperties", 0) > certain:
            reason = "minProperties is only supported up to the number of declared properties"
            raise GrammarError(reason, (*path, "minProperties"))
        return result | counts

    def _pattern_object(self, schema: dict[str, Any], path: Path) -> dict[str, Any]:
        """One pattern for all keys: of several, a key could match two."""
        place = (*path, "patternProperties")
        patterns = _of_type(dict, schema["patternProperties"], place)
        others = ("properties", "required", "minProperties")
        beside = next((k for k in others if schema.get(k)), None)
        if len(patterns) != 1 or beside or schema.get("additionalProperties"):
            raise GrammarError("patternProperties is only supported alone, with one pattern", place)
        ((pattern, entry),) = patterns.items()
        check_pattern(pattern, (*place, pattern))
        made = {pattern: self.convert(entry, (*place, pattern))}
        counts = _counts(schema, ("maxProperties",), path)
        return {"patternProperties": made, "additionalProperties": False} | counts


def _implied(schema: dict[str, Any]) -> list[str]:
    """Types whose keywords are there; a value of any other type would be valid too."""
    return [
        name
        for name, keywords in _KEYWORDS_OF.items()
        if name != "integer" and not keywords.isdisjoint(schema)
    ]


def _types(value: Any, path: Path) -> list[str]:
    names = value if isinstance(value, list) else [value]
    if not names or not all(isinstance(n, str) and n in _KEYWORDS_OF for n in names):
        raise GrammarError("is no JSON type", (*path, "type"))
    return names


def _string(schema: dict[str, Any], path: Path) -> dict[str, Any]:
    given = [k for k in ("pattern", "format") if k in schema]
    lengths = _counts(schema, ("minLength", "maxLength"), path)
    if len(given) + bool(lengths) > 1:
        other = next((k for k in lengths), "format")
        raise GrammarError(f"{other} beside {given[0]} is not supported", (*path, other))
    if lengths:
        fewest, most = lengths.get("minLength", 0), lengths.get("maxLength")
        if max(fewest, most or 0) > MAX_LENGTH:
            name = "maxLength" if (most or 0) > MAX_LENGTH else "minLength"
            raise GrammarError(f"is supported up to {MAX_LENGTH}", (*path, name))
        # xgrammar's own grammar for lengths lets raw control characters in, which is no JSON.
        return {"pattern": f"^[\\s\\S]{{{fewest},{'' if most is None else most}}}$"}
    if "pattern" in schema:
        check_pattern(_of_type(str, schema["pattern"], (*path, "pattern")), (*path, "pattern"))
        return {"pattern": schema["pattern"]}
    if "format" in schema:
        if schema["format"] not in FORMATS:
            raise GrammarError("this format is not supported", (*path, "format"))
        return {"format": schema["format"]}
    return {}


_LIMITS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")


def _number(schema: dict[str, Any], path: Path) -> dict[str, Any]:
    if "multipleOf" in schema:
        reason = "multipleOf is only supported for integers"
        raise GrammarError(reason, (*path, "multipleOf"))
    for name in _LIMITS:
        if name in schema:
            _check_number(schema[name], (*path, name))
    return {name: schema[name] for name in _LIMITS if name in schema}


def _integer(schema: dict[str, Any], path: Path) -> dict[str, Any]:
    limits = [name for name in _LIMITS if name in schema]
    if "multipleOf" in schema:
        multiple, place = schema["multipleOf"], (*path, "multipleOf")
        if not _is(multiple, "integer") or not 1 <= multiple <= MAX_MULTIPLE:
            raise GrammarError(f"is supported from 1 to {MAX_MULTIPLE}, whole", place)
        if limits:
            reason = f"{limits[0]} beside multipleOf is not supported"
            raise GrammarError(reason, (*path, limits[0]))
        return {"multipleOf": int(multiple)}
    least, most = -MAX_INTEGER, MAX_INTEGER
    for name in limits:
        value = _check_number(schema[name], (*path, name))
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
    return {"minimum": least, "maximum": most}


def _counts(schema: dict[str, Any], names: tuple[str, str] | tuple[str], path: Path) -> Any:
    counts: dict[str, int] = {}
    for name in names:
        if name in schema:
            if not _is(schema[name], "integer") or not 0 <= schema[name] <= MAX_INTEGER:
                raise GrammarError("must be a whole number, at least 0", (*path, name))
            counts[name] = int(schema[name])
    values = [counts[name] for name in names if name in counts]
    if values != sorted(values):
        raise GrammarError(f"{names[0]} is larger than {names[-1]}", (*path, names[0]))
    return counts


def _check_number(value: Any, path: Path) -> float:
    if not _is(value, "number") or abs(value) > MAX_INTEGER:
        raise GrammarError("must be a number within ±(2^53 - 1)", path)
    return value


def _check_exact(value: Any, path: Path) -> None:
    """Of a value that is to be written as it is."""
    if isinstance(value, list | dict):
        for entry in [*value, *(value.values() if isinstance(value, dict) else ())]:
            _check_exact(entry, path)
    elif _is(value, "number") and abs(value) > MAX_INTEGER:
        # Others are written with 17 digits, which are read back as the same number.
        raise GrammarError("numbers beyond 2^53 - 1 are not supported", path)


def _is(value: Any, type_name: str) -> bool:
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


def _names(value: Any, path: Path) -> list[str]:
    names = _of_type(list, value, path)
    return [_of_type(str, name, path) for name in names]


def _of_type(kind: type, value: Any, path: Path) -> Any:
    if not isinstance(value, kind):
        names = {dict: "an object", list: "a list", str: "a string"}
        raise GrammarError(f"must be {names[kind]}", path)
    return value
