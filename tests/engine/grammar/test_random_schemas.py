"""Structured answers always parse and validate: 300 random schemas, temperature 1, a tiny random
model. The model knows nothing, so the grammar does all the work.

Sizes are bounded by the schemas (lengths, counts, depth) such that no answer can reach max_tokens:
every request must end by itself.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import jsonschema
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis_jsonschema import from_schema

from server.engine.grammar.compiler import GrammarCompiler, Vocabulary
from server.engine.grammar.schema import enforceable
from server.engine.grammar.state import GrammarStates
from server.engine.speculative.ngram_drafter import NgramDrafter
from server.engine.types import Grammar, SpeculationParams
from server.errors import GrammarError
from server.models.layers import Placement
from server.models.llama import LlamaModel
from tests.engine.tiny import CONFIG, CPU, MODEL, TinyEngine, make_request, tokens

NUM_SCHEMAS = 300
PIECES = [
    *(bytes([byte]) for byte in range(256)),
    *(p.encode() for p in ('{"', '": ', '", ', '"}', "true", "fal", "\n  ", "aé", "}]", ', "', "12")),
]  # fmt: skip
EOS = len(PIECES)
MAX_TOKENS = 8000


def small(kind: str, **properties: Any) -> dict[str, Any]:
    """The schema of schemas of one type, with all of these keywords or some."""
    needed = [name for name, entry in properties.items() if entry.pop("needed", False)]
    return {
        "type": "object",
        "properties": {"type": {"const": kind}, **properties},
        "required": ["type", *needed],
        "additionalProperties": False,
    }


def count(least: int, most: int, *, needed: bool = False) -> dict[str, Any]:
    return {"type": "integer", "minimum": least, "maximum": most, "needed": needed}


def metaschema(depth: int) -> dict[str, Any]:
    """The schema of the random schemas."""
    leaves = [
        small("null"),
        small("boolean", title={"type": "string", "maxLength": 5}),
        small("integer", minimum=count(-999, 5), maximum=count(6, 999)),
        small("integer", exclusiveMinimum=count(-9, 5), exclusiveMaximum=count(9, 99)),
        small("number", minimum=count(-99, 0, needed=True), maximum=count(1, 99, needed=True)),
        small("string", minLength=count(0, 2), maxLength=count(2, 6, needed=True)),
        small("string", format={"enum": ["date", "ipv4", "uuid", "time"], "needed": True}),
        small("string", pattern={"enum": ["^a{1,3}$", "^[^x]?b|c$", "^\\d{2}-\\w$"], "needed": True}),
        {"type": "object", "properties": {"enum": {"type": "array", "minItems": 1, "maxItems": 3,
         "items": {"enum": [None, True, 0, -3, 1.5, "a", "é\n\"", [1, {"b": []}], {}]}}},
         "required": ["enum"], "additionalProperties": False},
    ]  # fmt: skip
    if depth == 0:
        return {"anyOf": leaves}
    inner = metaschema(depth - 1)
    names = {"a": inner, "b c": inner, 'q"\\': inner, "été": inner}
    branches = {"type": "array", "items": inner, "minItems": 1, "maxItems": 2, "needed": True}
    union = small("", anyOf=branches)
    del union["properties"]["type"]
    union["required"] = ["anyOf"]
    return {
        "anyOf": [
            *leaves,
            union,
            small("array", items={**inner, "needed": True}, minItems=count(0, 1),
                  maxItems=count(1, 2, needed=True)),
            small("array", prefixItems={**branches}, items={"const": False, "needed": True}),
            *[small("object", properties={"type": "object", "properties": names, "needed": True,
                                          "additionalProperties": False, "minProperties": 1},
                    required={"type": "array", "maxItems": 3, "uniqueItems": True,
                              "items": {"enum": ["a", "b c"]}},
                    additionalProperties={"const": False, "needed": True})] * 4,
        ]
    }  # fmt: skip


def made_possible(schema: Any) -> Any:
    """Every required name is declared: the generator can't say that."""
    if isinstance(schema, dict):
        made = {key: made_possible(value) for key, value in schema.items()}
        if isinstance(made.get("required"), list):
            made["required"] = [name for name in made["required"] if name in made["properties"]]
        return made
    return [made_possible(entry) for entry in schema] if isinstance(schema, list) else schema


@cache
def schemas() -> list[dict[str, Any]]:
    found = list[dict[str, Any]]()

    @settings(max_examples=NUM_SCHEMAS, derandomize=True, database=None, deadline=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(from_schema(metaschema(2)))
    def collect(schema: Any) -> None:
        found.append(made_possible(schema))

    collect()
    return found[:NUM_SCHEMAS]


@cache
def model() -> LlamaModel:
    config = replace(MODEL, vocab_size=EOS + 1, num_layers=1, max_position=2 * MAX_TOKENS,
                     sliding_windows=(24,), eos_token_ids=(EOS,))  # fmt: skip
    made = LlamaModel(config, Placement(CPU, torch.float32))
    generator = torch.Generator().manual_seed(11)
    for name, slot in made.slots().items():
        if "norm" in name:
            slot.fill_(1.0)
        else:
            slot.normal_(0.0, 0.2, generator=generator)
    made.freeze()
    return made


def encode(text: str) -> list[int]:
    rest, token_ids = text.encode(), list[int]()
    while rest:
        found = max((p for p in PIECES if rest.startswith(p)), key=len)
        token_ids.append(PIECES.index(found))
        rest = rest[len(found) :]
    return token_ids


def test_300_random_schemas() -> None:
    vocabulary = Vocabulary(
        EOS + 1, lambda i: PIECES[i] if i < EOS else b"", frozenset(), frozenset({EOS}), encode
    )
    compiler = GrammarCompiler(vocabulary)
    config = replace(CONFIG, num_blocks=10_000, block_size=16, max_model_len=MAX_TOKENS + 8,
                     eos_token_ids=frozenset({EOS}))  # fmt: skip
    engine = TinyEngine(
        config, lambda config, caches: NgramDrafter(), model(),
        grammars=GrammarStates(compiler.get, frozenset({EOS})),
    )  # fmt: skip
    asked = [
        replace(
            make_request(
                str(i), [i % 256, 3], max_tokens=MAX_TOKENS, temperature=1.0, seed=i,
                grammar=Grammar("json_schema", json.dumps(schema)),
            ),
            speculation=SpeculationParams(policy=("off", "chain", "auto")[i % 3]),
        )
        for i, schema in enumerate(schemas())
    ]  # fmt: skip
    for request, outputs in zip(asked, engine.run(asked).values(), strict=True):
        schema = schemas()[int(request.request_id)]
        assert outputs[-1].finish_reason == "stop", schema
        text = b"".join(PIECES[i] for i in tokens(outputs)[:-1]).decode()
        jsonschema.validate(json.loads(text), schema)


def test_they_are_300_and_of_many_kinds() -> None:
    written = [json.dumps(schema) for schema in schemas()]
    assert len(written) == NUM_SCHEMAS
    assert len(set(written)) > 200
    for keyword in ("properties", "required", "maxItems", "maxLength", "pattern", "format", "enum",
                    "anyOf", "minimum", "exclusiveMaximum", "prefixItems"):  # fmt: skip
        assert sum(f'"{keyword}"' in text for text in written) > 5, keyword


UNSUPPORTED: list[tuple[str, Any]] = [
    ("not", {}), ("if", {}), ("dependentSchemas", {}), ("propertyNames", {}), ("contains", {}),
    ("unevaluatedProperties", False), ("minContains", 1), ("$dynamicRef", "#"), ("patern", "a"),
]  # fmt: skip


def subschemas(schema: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[dict[str, Any], str]]:
    """Every schema inside of a schema, and where it is."""
    yield schema, ".".join(path)
    for keyword in ("items",):
        if isinstance(schema.get(keyword), dict):
            yield from subschemas(schema[keyword], (*path, keyword))
    for keyword in ("anyOf", "prefixItems"):
        for i, entry in enumerate(schema.get(keyword, ())):
            yield from subschemas(entry, (*path, keyword, str(i)))
    for name, entry in schema.get("properties", {}).items():
        yield from subschemas(entry, (*path, "properties", name))


def test_the_same_schemas_with_one_unsupported_keyword_are_refused() -> None:
    rng = random.Random(2)
    for i, original in enumerate(schemas()):
        schema = json.loads(json.dumps(original))
        keyword, value = UNSUPPORTED[i % len(UNSUPPORTED)]
        inside, path = rng.choice(list(subschemas(schema)))
        inside[keyword] = value
        with pytest.raises(GrammarError) as refused:
            enforceable(schema)
        assert ".".join(refused.value.path) == f"{path}.{keyword}".lstrip(".")
