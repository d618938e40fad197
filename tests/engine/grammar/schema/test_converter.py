"""Which schemas are enforced, and by which keyword the others are refused."""

import cProfile
import json
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest

from server.engine.grammar.compile.compiler import schema_ebnf
from server.engine.grammar.schema.checks import MAX_INTEGER
from server.engine.grammar.schema.converter import enforceable
from server.engine.grammar.schema.disjoint import are_disjoint
from server.engine.types import Grammar
from server.errors import GrammarError
from tests.engine.grammar.bytes import matches

REFUSED: list[tuple[Any, str]] = [
    ({"propertyNames": {"enum": ["a", "bb"], "maxLength": 1}}, "propertyNames.maxLength"),
    ({"$ref": "#item", "$defs": {"i": {"$anchor": "item", "type": "string"}}}, "$ref"),
    (
        {
            "allOf": [
                {"properties": {"a": {}}, "additionalProperties": False},
                {"patternProperties": {"^x": {}}},
            ]
        },
        "allOf.1.additionalProperties",
    ),
    (
        {"allOf": [{"prefixItems": [{"type": "integer"}]}, {"items": {"type": "string"}}]},
        "allOf.1.items",
    ),
    (
        {
            "allOf": [
                {"properties": {"a": {}}, "unevaluatedProperties": False},
                {"properties": {"b": {}}},
            ]
        },
        "allOf.1.additionalProperties",
    ),
    ({"allOf": [{"enum": [0, 1]}, {"enum": [False, True]}]}, "enum"),
    (False, ""),
    ({"not": {"type": "integer"}}, "not"),
    ({"if": {}, "then": {}}, "if"),
    ({"type": "array", "uniqueItems": True}, "uniqueItems"),
    ({"type": "array", "contains": {}}, "contains"),
    ({"type": "array", "minItems": 3, "maxItems": 2}, "minItems"),
    ({"type": "array", "minItems": -1}, "minItems"),
    ({"type": "object", "dependentRequired": {"a": ["b"]}}, "dependentRequired"),
    ({"type": "object", "minProperties": 2}, "minProperties"),
    ({"required": ["a"], "additionalProperties": False}, "required"),
    ({"type": "integer", "multipleOf": 1001}, "multipleOf"),
    ({"type": "integer", "minimum": 3, "maximum": 2}, "maximum"),
    ({"type": "integer", "minimum": True}, "minimum"),
    ({"type": "number", "minimum": 1e20}, "minimum"),
    ({"type": "string", "pattern": "(?<=a)a"}, "pattern"),
    ({"type": "strin"}, "type"),
    ({"type": []}, "type"),
    ({"enum": []}, "enum"),
    ({"enum": ["a"], "type": "integer"}, "enum"),
    ({"const": 2**60}, "const"),
    ({"enum": ["a"], "minLength": 2}, "minLength"),
    ({"$ref": "#/$defs/a"}, "$ref"),
    ({"$ref": "https://example.com"}, "$ref"),
    ({"$ref": "#"}, "$ref"),
    ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, "$ref"),
    ({"anyOf": []}, "anyOf"),
    ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
    ({"properties": {"a": {"items": {"pattern": "a$b"}}}}, "properties.a.items.pattern"),
    ({"anyOf": [{}, {"enum": []}]}, "anyOf.1.enum"),
    ({"type": "array", "items": {"type": "string"}, "uniqueItems": True}, "uniqueItems"),
    ({"dependentSchemas": {}}, "dependentSchemas"),
    ({"propertyNames": {"not": {}}}, "propertyNames"),
    ({"propertyNames": {"pattern": "^a"}, "required": ["b"]}, "required"),
    ({"propertyNames": {"maxLength": 0, "minLength": 1}}, "propertyNames.minLength"),
    ({"type": "number", "multipleOf": 0.3}, "multipleOf"),
    ({"type": "number", "multipleOf": -1}, "multipleOf"),
    ({"type": "number", "multipleOf": 0.01, "minimum": 5}, "multipleOf"),
    ({"type": "integer", "multipleOf": 7, "minimum": 1}, "multipleOf"),
    ({"type": "integer", "multipleOf": 7, "minimum": 1, "maximum": 6}, "multipleOf"),
    ({"type": "string", "format": "regex"}, "format"),
    ({"type": "string", "contentEncoding": "quoted-printable"}, "contentEncoding"),
    ({"type": "string", "pattern": "^a$", "minLength": 3}, ""),
    ({"type": "string", "pattern": "^a$", "format": "date"}, ""),
    ({"type": "string", "pattern": r"\bx"}, "pattern"),
    ({"type": "string", "maxLength": 100_001}, "maxLength"),
    ({"$ref": "#/$defs/a", "type": "string", "$defs": {"a": {"type": "integer"}}}, "type"),
    ({"$ref": "#/$defs/a", "pattern": "b", "$defs": {"a": {"pattern": "a"}}}, "pattern"),
    ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "allOf.1.type"),
    (
        {"allOf": [{"properties": {"a": {}}}, {"additionalProperties": False}]},
        "allOf.1.additionalProperties",
    ),
    ({"type": [{}]}, "type"),
    ({"type": "string", "anyOf": [{"type": "null"}, {"type": "integer"}]}, "type"),
    ({"$ref": "#/$defs/a/1", "$defs": {"a": [{}]}}, "$ref"),
]


@pytest.mark.parametrize(("schema", "path"), REFUSED, ids=lambda v: json.dumps(v)[:60])
def test_refused_by_name(schema: Any, path: str) -> None:
    with pytest.raises(GrammarError) as refused:
        enforceable(schema)
    assert ".".join(refused.value.path) == path
    assert refused.value.message


def test_too_deep() -> None:
    schema: Any = {}
    for _ in range(70):
        schema = {"items": schema}
    with pytest.raises(GrammarError, match="deeper than 64"):
        enforceable(schema)


# (schema, texts that it allows, texts that it doesn't)
ENFORCED: list[tuple[Any, list[str], list[str]]] = [
    (
        {
            "type": "object",
            "properties": {"a": False, "b": {"type": "integer"}},
            "additionalProperties": True,
        },
        ['{"b":1}', '{"c":2}', "{}"],
        ['{"a":1}', '{"b":1,"a":1}'],
    ),
    (
        {"allOf": [{"type": "string", "nullable": True}, {"type": "string", "minLength": 1}]},
        ['"a"'],
        ["null", '""'],
    ),
    (
        {
            "properties": {"x": {"$ref": "#/$defs/a~1b"}, "y": {"$ref": "#/$defs/a/properties/b"}},
            "required": ["x", "y"],
            "$defs": {
                "a/b": {"type": "string"},
                "a": {"properties": {"b": {"type": "integer"}}},
            },
        },
        ['{"x":"s","y":1}'],
        ['{"x":1,"y":1}', '{"x":"s","y":"s"}'],
    ),
    (
        {"type": "integer", "format": "int32", "multipleOf": 500_000_000},
        ["500000000"],
        ["5000000000"],
    ),
    ({"type": "integer", "minimum": 2.5, "exclusiveMaximum": 5}, ["3", "4"], ["2", "5", "3.0"]),
    ({"type": "integer", "exclusiveMinimum": -1.5, "maximum": 0}, ["-1", "0"], ["-2", "1"]),
    ({"type": "integer"}, ["0", "-7", str(MAX_INTEGER)], [str(MAX_INTEGER + 1), "1.0", "01"]),
    ({"type": "integer", "multipleOf": 7}, ["0", "14", "-7"], ["15"]),
    ({"type": "number", "minimum": 0.5}, ["0.5", "3"], ["0.4", "-1"]),
    ({"type": "string", "maxLength": 2}, ['"ab"', '""', '"é🙂"'], ['"abc"', '"\t"', '"\x01"']),
    ({"type": "string", "minLength": 2}, ['"ab"'], ['"a"', '""']),
    ({"type": "string", "pattern": "^a+$"}, ['"aa"'], ['"ab"', '""']),
    ({"type": "string"}, ['"a\\n"', '"\\u0001"'], ['"\\ud800"', '"\\u0061"', '"\n"', "a"]),
    ({"type": "string", "format": "uuid"}, [f'"{"0" * 8}-0000-4000-8000-{"0" * 12}"'], ['"0"']),
    ({"properties": {"a": {"type": "null"}}}, ["{}", '{"a":null}'], ['{"b":1}', '{"a":1}', "1"]),
    (
        {"properties": {"a": {"type": "null"}}, "additionalProperties": {"type": "integer"}},
        ['{"a":null,"b":1}', '{"b":1}'],
        ['{"b":null}', '{"a":1}', '{"\\u0061":1}', '{"a":null,"a":1}'],
    ),
    ({"type": "object"}, ["{}", '{"a":[1,{}]}'], ["[]", "{"]),
    ({"type": "object", "properties": {}}, ["{}", "{ }"], ['{"a":1}']),
    ({"properties": {}, "additionalProperties": True}, ["{}", '{"a":1}'], ["[]"]),
    ({"type": "object", "required": ["x"]}, ['{"x":1}'], ["{}", '{"y":1}']),
    (
        {"properties": {"a": {}, "b": {}}, "additionalProperties": False, "minProperties": 1},
        ['{"a":1}', '{"a":1,"b":2}'],
        ["{}"],
    ),
    ({"patternProperties": {"^a[0-9]$": {"type": "integer"}}}, ['{"a1":1}'], ['{"b":1}']),
    ({"type": "array", "items": False}, ["[]"], ["[1]"]),
    ({"type": "array", "prefixItems": [{"type": "null"}], "minItems": 2}, ["[null,1]"], ["[null]"]),
    ({"type": ["integer", "string"], "maxLength": 1, "minimum": 5}, ["7", '"a"'], ["3", '"ab"']),
    ({"maxLength": 1}, ['"a"'], ['"ab"', "1"]),
    ({"type": "string", "minimum": 5}, ['"a"'], ["7"]),
    ({"enum": ["a", 1, None, {"b": [1]}], "type": ["string", "object"]}, ['"a"'], ["1", "null"]),
    ({"const": 0.1}, ["0.1"], ["0.2"]),
    ({"allOf": [{"type": "null"}], "title": "t"}, ["null"], ["1"]),
    ({"oneOf": [{"type": "null"}, {"const": 1}]}, ["null", "1"], ["2"]),
    (
        {"$ref": "#/$defs/n", "$defs": {"n": {"properties": {"n": {"$ref": "#/$defs/n"}}}}},
        ["{}", '{"n":{"n":{}}}'],
        ['{"n":1}'],
    ),
    ({"type": "object", "x-order": 1, "deprecated": True}, ["{}"], ["1"]),
    ({"type": "null", "optional": True, "then": {}, "strict": True, "typ": 1}, ["null"], ["1"]),
    # Strings.
    (
        {"type": "string", "maxLength": 3},
        ['"\\n\\"a"', '"\\u0001ab"'],
        ['"\\n\\"ab"', '"\\n\\n\\n\\n"'],
    ),
    ({"type": "string", "minLength": 200}, [f'"{"é" * 200}"'], [f'"{"é" * 199}"']),
    ({"type": "string", "maxLength": 5000}, [f'"{"é" * 5000}"', '""'], [f'"{"é" * 5001}"']),
    ({"pattern": "b"}, ['"b"', '"abc"', '"\\"b"'], ['"a"', '""']),
    ({"pattern": "^a"}, ['"a"', '"ab\\n"'], ['"ba"']),
    ({"pattern": "a$|^b"}, ['"ca"', '"bc"', '"a"'], ['"ac"', '"cb"', '"ca\\n"']),
    ({"pattern": "^(a|b)+$", "maxLength": 3, "minLength": 2}, ['"ab"', '"aba"'], ['"a"', '"abab"']),
    ({"pattern": "^[a-z]+-[0-9]+$", "maxLength": 5}, ['"abc-1"', '"a-1"'], ['"abc-12"', '"ab"']),
    ({"pattern": "^[a-z]+$", "maxLength": 900}, [f'"{"a" * 900}"'], [f'"{"a" * 901}"', '""']),
    (
        {"pattern": r"^(?=.*\d)(?=.*[A-Z])(?!.*\s).{4,8}$"},
        ['"aB3d"', '"1234567B"'],
        ['"aB3"', '"abc3"', '"aBcd"', '"aB3 d"', '"aB3456789"'],
    ),
    ({"pattern": r"^\w\d$"}, ['"a1"'], ['"é1"', '"a٣"']),
    ({"pattern": r"^[^\w]\W$"}, ['"-+"'], ['"é-"', '"-é"']),
    (
        {"type": "string", "format": "email", "maxLength": 9},
        ['"a@b.co"'],
        ['"a@b"', '"abcd@ef.co"'],
    ),
    ({"format": "date", "pattern": "^2024"}, ['"2024-02-29"'], ['"2023-01-01"', '"2024-02-30"']),
    (
        {"type": "string", "format": "uri", "minLength": 1, "maxLength": 2083},
        ['"https://a.b/c"'],
        ['"a"', '""'],
    ),
    ({"type": "string", "format": "cuid"}, ['"x"'], ["1"]),
    ({"type": "integer", "format": "int32"}, ["2147483647"], ["2147483648", '"1"']),
    ({"type": "string", "contentEncoding": "base64"}, ['"YQ=="', '""'], ['"YQ="', '"a b"']),
    # Numbers.
    ({"type": "number", "multipleOf": 0.01}, ["0.5", "-12.25", "7"], ["0.125", "1e2", "00.1"]),
    ({"type": "number", "multipleOf": 0.25, "minimum": 0}, ["0.5", "3.25", "0"], ["0.3", "-0.5"]),
    (
        {"type": "number", "multipleOf": 0.3, "minimum": 0, "exclusiveMaximum": 0.9},
        ["0", "0.3", "0.6"],
        ["0.9", "0.5"],
    ),
    ({"type": "integer", "multipleOf": 5, "minimum": 1}, ["5", "120", "1005"], ["0", "-5", "12"]),
    ({"type": "integer", "multipleOf": 7, "minimum": 1, "maximum": 20}, ["7", "14"], ["0", "21"]),
    ({"type": "integer", "multipleOf": 0.5}, ["3"], ["0.5"]),
    # Arrays.
    ({"type": "array", "items": [{"const": 1}], "additionalItems": False}, ["[1]", "[]"], ["[2]"]),
    ({"type": "array", "prefixItems": [{}], "unevaluatedItems": False}, ["[1]"], ["[1,2]"]),
    (
        {"items": {"enum": ["a", "b", 1]}, "uniqueItems": True, "minItems": 1},
        ['["a"]', '["b", "a"]', '[1,"a","b"]'],
        ["[]", '["a","a"]', '["a","b",1,1]'],
    ),
    ({"items": {"enum": list(range(7))}, "uniqueItems": True}, ["[]", "[0, 3,6]"], ["[3,3]"]),
    ({"items": {"type": "string"}, "uniqueItems": True, "maxItems": 1}, ['["a"]'], ['["a","a"]']),
    # Objects.
    (
        {"patternProperties": {"^a": {"const": 1}, "b$": {"const": 2}}},
        ['{"ac":1,"cb":2}', "{}"],
        ['{"ab":1}', '{"c":1}', '{"ac":2}'],
    ),
    (
        {
            "patternProperties": {"^x-": {"const": 1}},
            "properties": {"a": {"const": 2}},
            "additionalProperties": False,
        },
        ['{"a":2,"x-b":1}'],
        ['{"x-b":2}', '{"b":1}'],
    ),
    (
        {"propertyNames": {"pattern": "^[a-c]+$"}, "additionalProperties": {"type": "integer"}},
        ['{"ab":1}'],
        ['{"d":1}', '{"ab":""}'],
    ),
    (
        {"propertyNames": {"enum": ["a", "b"]}, "additionalProperties": {"type": "null"}},
        ['{"a":null,"b":null}', "{}"],
        ['{"c":null}', '{"a":null,"a":null}'],
    ),
    (
        {
            "properties": {"°C": {"const": 1}, "ab": {"const": 2}, "aé": {}},
            "additionalProperties": {"const": 3},
        },
        ['{"°C":1,"°F":3}', '{"a":3,"abc":3,"Â":3,"°":3}'],
        ['{"°C":3}', '{"ab":3}', '{"aé":1,"aé":3}', '{"\\u0061b":3}'],
    ),
    ({"properties": {"a": {}}, "unevaluatedProperties": False}, ['{"a":1}'], ['{"b":1}']),
    # Several schemas.
    ({"type": "string", "nullable": True}, ['"a"', "null"], ["1"]),
    ({"allOf": [{"type": "integer"}], "nullable": True}, ["1", "null"], ['"a"']),
    ({"enum": ["a"], "nullable": True}, ['"a"'], ["null"]),
    (
        {
            "type": "object",
            "properties": {"a": {}, "b": {}},
            "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
        },
        ['{"a":1}', '{"b":1}'],
        ["{}", "1"],
    ),
    (
        {
            "allOf": [
                {"properties": {"a": {"minimum": 1, "type": "number"}}, "required": ["a"]},
                {"properties": {"a": {"type": "integer"}, "b": {}}, "required": ["b"]},
            ]
        },
        ['{"a":1,"b":2}'],
        ['{"a":1}', '{"a":0,"b":1}', '{"a":1.5,"b":1}'],
    ),
    (
        {"$ref": "#/$defs/a", "maxLength": 2, "$defs": {"a": {"type": "string"}}},
        ['"ab"'],
        ['"abc"'],
    ),
    (
        {"properties": {"a b/é": {"type": "null"}, "c": {"$ref": "#/properties/a%20b~1é"}}},
        ['{"c":null}'],
        ['{"c":1}'],
    ),
    (
        {"type": ["object", "null"], "properties": {"a": {"type": ["null", "integer"]}}},
        ["null", '{"a":null}', '{"a":1}'],
        ['{"a":""}', "1"],
    ),
]


@pytest.mark.parametrize(("schema", "good", "bad"), ENFORCED, ids=lambda v: json.dumps(v)[:60])
def test_enforced(schema: Any, good: list[str], bad: list[str]) -> None:
    grammar = Grammar("json_schema", json.dumps(schema))
    # `nullable` is OpenAPI's, and lists of `items` are from before 2020.
    validator = jsonschema.Draft202012Validator
    if isinstance(schema.get("items"), list):
        validator = jsonschema.Draft201909Validator
    for text in good:
        assert matches(grammar, text), text
        if "nullable" not in schema:
            validator(schema).validate(json.loads(text))
    for text in bad:
        assert not matches(grammar, text), text


def test_white_space_is_allowed_but_not_for_ever() -> None:
    grammar = Grammar("json_schema", '{"type": "array", "items": {"type": "null"}}')
    assert matches(grammar, "[\n  null,\n  null\n]")
    assert not matches(grammar, "[" + " " * 40 + "]")


def test_a_json_object_is_an_object() -> None:
    assert matches(Grammar("json_object", ""), '{"a": [1, "x\\n", {}]}')
    assert not matches(Grammar("json_object", ""), "[1]")


A = {"type": "object", "properties": {"kind": {"const": "a"}}, "required": ["kind"]}
B = {"type": "object", "properties": {"kind": {"enum": ["b", "c"]}}, "required": ["kind"]}


def _tagged(first: str, second: str) -> Any:
    """Only both properties together tell such objects apart."""
    properties = {"first": {"const": first}, "second": {"const": second}}
    return {"type": "object", "properties": properties, "required": ["first", "second"]}


@pytest.mark.parametrize(
    ("schemas", "disjoint"),
    [
        ([{"type": "string"}, {"type": ["number", "null"]}], True),
        ([{"type": "integer"}, {"type": "number"}], False),
        ([{}, {"type": "null"}], False),
        ([{"const": 1}, {"enum": [2, "1"]}], True),
        ([{"const": 1}, {"const": 1.0}], False),
        ([{"const": True}, {"const": 1}], True),
        ([A, B], True),
        ([A, B, {"type": "string"}], True),
        ([A, A], False),
        ([A, {**B, "required": []}], False),
        ([{"enum": ["a"]}, {"type": "integer"}], True),
        ([True, {"type": "integer"}], False),
        ([A, {"const": {"kind": "b"}}], False),
        ([{"enum": [1, "a"]}, {"enum": ["b", 1]}], False),
        ([{"const": "a"}, {"type": ["string", "null"]}], False),
        ([A, B, {**A, "properties": {"kind": {}}}], False),
        ([*(_tagged(t, "x") for t in "ab"), *(_tagged(t, "y") for t in "ab")], True),
        ([*(_tagged(t, "x") for t in "ab"), _tagged("a", "x")], False),
    ],
)
def test_disjoint(schemas: list[Any], disjoint: bool) -> None:
    assert are_disjoint(schemas, lambda schema: schema) == disjoint


@pytest.mark.parametrize(
    "one_of",
    [
        lambda n: [{"const": i} for i in range(n)],
        lambda n: [_tagged(f"{i}", "x") for i in range(n)],
        lambda n: [{"enum": list(range(n))}, *({"const": i} for i in range(n))],
        lambda n: [{"type": "object", "required": [f"{i}" for i in range(n)]}] * 2,
        lambda n: [_tagged("a", "x")] * n,
    ],
)
def test_deciding_takes_time_in_proportion_to_the_text(one_of: Callable[[int], Any]) -> None:
    """Counted in Python's own function calls, which are the same on every machine."""
    calls = [_num_calls(lambda n=n: are_disjoint(one_of(n), lambda schema: schema)) for n in SIZES]
    assert calls[1] <= calls[0] * SIZES[1] / SIZES[0] * 1.5


SIZES = (200, 1600)


def _num_calls(call: Callable[[], object]) -> int:
    profile = cProfile.Profile()
    profile.runcall(call)
    return sum(entry.callcount for entry in profile.getstats())


def test_xgrammar_still_has_the_rule_that_is_rewritten() -> None:
    assert '("u00" [01] [A-Fa-f0-9])' in schema_ebnf({"type": "string"})
