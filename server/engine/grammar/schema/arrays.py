"""Keywords for arrays. Pure."""

import itertools
import json
from typing import Any

from server.engine.grammar.regular.expression import Expression, either, repeat, sequence, text
from server.engine.grammar.schema.checks import Converts, JsonSchema, Path, counts, of_type
from server.errors import GrammarError

_MAX_ORDERS = 4
"""Up to this many distinct values are allowed in every order: 4 make 64 lists, 5 would make 325."""
_MAX_UNIQUE = 40


def array_schema(converter: Converts, schema: dict[str, Any], path: Path) -> JsonSchema:
    """The enforceable schema of an array.

    Raises:
        GrammarError: a keyword can't be enforced.
    """
    schema = _of_2020(schema, path)
    limits = counts(schema, ("minItems", "maxItems"), path)
    if schema.get("uniqueItems") is True and limits.get("maxItems", 2) > 1:
        return _unique(converter, schema, limits, path)
    result: dict[str, Any] = {"type": "array"}
    if "items" in schema:
        items = schema["items"]
        result["items"] = items is not False and converter.convert(items, (*path, "items"))
    if "prefixItems" in schema:
        result["prefixItems"] = _prefix(converter, schema["prefixItems"], (*path, "prefixItems"))
    result |= limits
    if "items" not in result and limits.get("minItems", 0) > len(result.get("prefixItems", ())):
        result["items"] = {}
    return result


def _of_2020(schema: dict[str, Any], path: Path) -> dict[str, Any]:
    """Renames a list of `items`, and `additionalItems`, which have other names since 2020."""
    schema = dict(schema)
    more = schema.pop("additionalItems", None)
    unevaluated = schema.pop("unevaluatedItems", None)
    if isinstance(schema.get("items"), list):
        schema["prefixItems"] = schema.pop("items")
        if more is not None:
            schema["items"] = more
    if unevaluated is not None and "items" not in schema:
        schema["items"] = unevaluated
    return schema


def _prefix(converter: Converts, value: Any, path: Path) -> list[JsonSchema]:
    entries = of_type(list, value, path)
    if not entries:
        raise GrammarError("prefixItems is empty", path)
    return [converter.convert(entry, (*path, str(i))) for i, entry in enumerate(entries)]


def _unique(
    converter: Converts, schema: dict[str, Any], limits: dict[str, int], path: Path
) -> JsonSchema:
    """Arrays of distinct listed values: in every order where they are few, else in the schema's
    order."""
    place = (*path, "uniqueItems")
    values = _listed(converter, schema, path)
    if values is None:
        raise GrammarError("uniqueItems is only supported for items with an enum", place)
    least, most = limits.get("minItems", 0), limits.get("maxItems", len(values))
    if least > len(values):
        raise GrammarError("there are not as many different items", (*path, "minItems"))
    if len(values) <= _MAX_ORDERS:
        sizes = range(least, min(most, len(values)) + 1)
        lists = [list(order) for n in sizes for order in itertools.permutations(values, n)]
        return {"anyOf": [_tuple(converter, order) for order in lists]}
    if len(values) > _MAX_UNIQUE:
        raise GrammarError(f"is supported for up to {_MAX_UNIQUE} values", place)
    if least > 1 or most < len(values):
        name = "minItems" if least > 1 else "maxItems"
        reason = f"beside uniqueItems it is supported for up to {_MAX_ORDERS} values"
        raise GrammarError(reason, (*path, name))
    return converter.texts.bare_value(_in_order(values, least), place)


def _in_order(values: list[Any], least: int) -> Expression:
    """A list of some of the values, in their order, as JSON."""
    space = repeat(text(" "), 0, 1)
    written = [text(json.dumps(value, ensure_ascii=False)) for value in values]
    later = [repeat(sequence((text(","), space, value)), 0, 1) for value in written]
    lists = [sequence((value, *later[i + 1 :])) for i, value in enumerate(written)]
    inside = repeat(either(lists), least, 1)
    return sequence((text("["), inside, text("]")))


def _tuple(converter: Converts, values: list[Any]) -> JsonSchema:
    made: dict[str, Any] = {"type": "array", "minItems": len(values), "maxItems": len(values)}
    if values:
        made["prefixItems"] = [converter.texts.listed([value]) for value in values]
    return made | {"items": False}


def _listed(converter: Converts, schema: dict[str, Any], path: Path) -> list[Any] | None:
    if "prefixItems" in schema or "items" not in schema:
        return None
    place = (*path, "items")
    items = converter.resolve(schema["items"], place)
    if items == {"type": "boolean"}:
        return [False, True]
    if not isinstance(items, dict) or not {"const", "enum"} & items.keys():
        return None
    values = converter.values(items, place)
    return list({json.dumps(value, sort_keys=True): value for value in values}.values())
