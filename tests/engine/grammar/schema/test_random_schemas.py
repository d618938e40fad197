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
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from server.engine.drafters.ngram import NgramDrafter
from server.engine.grammar.compile.compiler import Vocabulary
from server.engine.grammar.schema.converter import enforceable
from server.engine.grammar.states import GrammarStates
from server.engine.types import Grammar, SpeculationParams
from server.errors import GrammarError
from server.models.causal_lm import CausalLM
from server.models.layers import Placement
from server.models.llama import LlamaParameters
from tests.engine.grammar.in_process import in_process
from tests.engine.tiny import CONFIG, CPU, MODEL, TinyEngine, make_request, tokens

NUM_SCHEMAS = 300
PIECES = [
    *(bytes([byte]) for byte in range(256)),
    *(p.encode() for p in ('{"', '": ', '", ', '"}', "true", "fal", "\n  ", "aé", "}]", "12")),
]  # fmt: skip
EOS = len(PIECES)
MAX_TOKENS = 8000


def sizes(low: int, middle: int, high: int, *names: str) -> st.SearchStrategy[dict[str, int]]:
    """Two limits, the first up to the middle and the second from there on."""
    least, most = st.integers(low, middle), st.integers(middle, high)
    return st.fixed_dictionaries({names[0]: least, names[1]: most})


def typed(kind: str, keywords: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[Any]:
    return keywords.map(lambda given: {"type": kind, **given})


PATTERNS = ["^a{1,3}$", "^(?:[^x]?b|c)$", r"^\d{2}-\w$", r"^(?=.*\d)\w{2,4}$"]
VALUES = [None, True, 0, -3, 1.5, "a", 'é\n"', [1, {"b": []}], {}, {"x": "y"}]
NAMES = ["a", "b c", 'q"\\', "été"]
LEAVES = st.one_of(
    st.sampled_from([{"type": "null"}, {"type": "boolean", "title": "yes?"}, {"type": "integer"}]),
    typed("integer", sizes(-999, 5, 999, "minimum", "maximum")),
    typed("integer", sizes(-9, 0, 9, "exclusiveMinimum", "exclusiveMaximum").filter(
        lambda s: s["exclusiveMinimum"] + 1 < s["exclusiveMaximum"])),
    typed("integer", st.builds(lambda n: {"multipleOf": n}, st.integers(1, 20))),
    typed("number", sizes(-99, 0, 99, "minimum", "maximum").filter(
        lambda s: s["minimum"] < s["maximum"])),
    typed("string", sizes(0, 2, 6, "minLength", "maxLength")),
    typed("string", st.builds(lambda f: {"format": f}, st.sampled_from(
        ["date", "ipv4", "uuid", "time"]))),
    typed("string", st.builds(lambda p: {"pattern": p}, st.sampled_from(PATTERNS))),
    typed("string", st.builds(lambda p, n: {"pattern": p, "maxLength": n},
                              st.sampled_from(["^[ab]+@[a-c]+$", "^x.*$"]), st.integers(3, 150))),
    st.builds(lambda n: {"type": "array", "items": {"enum": list(range(n))}, "uniqueItems": True},
              st.integers(1, 6)),
    typed("number", st.builds(lambda n: {"multipleOf": n}, st.sampled_from([0.5, 0.25, 3]))),
    st.builds(lambda v: {"enum": v}, st.lists(st.sampled_from(VALUES), min_size=1, max_size=3)),
    st.builds(lambda v: {"const": v}, st.sampled_from(VALUES)),
    st.builds(lambda n: {"type": ["integer", "string"], "maxLength": n, "minimum": n, "maximum": 7},
              st.integers(1, 5)),
)  # fmt: skip


@st.composite
def objects(draw: st.DrawFn, inner: st.SearchStrategy[Any]) -> dict[str, Any]:
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True))
    required = [name for name in names if draw(st.booleans())]
    schema = {"type": "object", "properties": {name: draw(inner) for name in names}}
    more = {"additionalProperties": False, "minProperties": draw(st.integers(0, len(names)))}
    return schema | {"required": required} | draw(st.sampled_from([{}, more]))


def deeper(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    some = st.lists(inner, min_size=1, max_size=2)
    return st.one_of(
        LEAVES,
        objects(inner),
        objects(inner),
        st.builds(lambda s, n: {"type": "array", "items": s} | n, inner,
                  sizes(0, 1, 2, "minItems", "maxItems")),
        st.builds(lambda s: {"type": "array", "prefixItems": s, "items": False}, some),
        st.builds(lambda s: {"anyOf": s}, some),
        st.builds(lambda s: {"$defs": {"d": s}, "$ref": "#/$defs/d"}, inner.filter(
            lambda s: "$ref" not in json.dumps(s))),
        st.builds(lambda s: {"allOf": [s]}, inner),
    )  # fmt: skip


SCHEMAS = objects(deeper(deeper(LEAVES))) | deeper(deeper(LEAVES))


def without_inner_references(schema: dict[str, Any]) -> bool:
    """A reference leads from the root, so only the root may have definitions."""
    return '"$ref"' not in json.dumps(
        {k: v for k, v in schema.items() if k not in ("$ref", "$defs")}
    )


@cache
def schemas() -> list[dict[str, Any]]:
    found = list[dict[str, Any]]()

    @settings(max_examples=NUM_SCHEMAS, derandomize=True, database=None, deadline=None,
              suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
              phases=[Phase.generate])  # fmt: skip
    @given(SCHEMAS.filter(without_inner_references))
    def collect(schema: dict[str, Any]) -> None:
        found.append(schema)

    collect()
    return found[:NUM_SCHEMAS]


@cache
def model() -> CausalLM:
    config = replace(MODEL, vocab_size=EOS + 1, num_layers=1, max_position=2 * MAX_TOKENS,
                     sliding_windows=(24,), eos_token_ids=(EOS,))  # fmt: skip
    parameters = LlamaParameters(config, Placement(CPU, torch.float32))
    generator = torch.Generator().manual_seed(11)
    for name, slot in parameters.slots().items():
        if "norm" in name:
            slot.fill_(1.0)
        else:
            slot.normal_(0.0, 0.2, generator=generator)
    return parameters.freeze()


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
    compiler = in_process(vocabulary)
    config = replace(CONFIG, num_blocks=10_000, block_size=16, max_model_len=MAX_TOKENS + 8,
                     eos_token_ids=frozenset({EOS}))  # fmt: skip
    engine = TinyEngine(
        config, lambda config, caches: NgramDrafter(), model(),
        grammars=GrammarStates(compiler.get, vocabulary),
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
    keywords = (
        "properties required maxItems maxLength pattern format enum const anyOf allOf minimum"
        " exclusiveMaximum prefixItems multipleOf $ref"
    )
    for keyword in keywords.split():
        assert sum(f'"{keyword}"' in text for text in written) > 5, keyword


UNSUPPORTED: list[tuple[str, Any]] = [
    ("not", {}), ("if", {}), ("dependentSchemas", {}), ("contains", {}), ("minContains", 1),
    ("dependentRequired", {}), ("$dynamicRef", "#"),
]  # fmt: skip


def subschemas(schema: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[dict[str, Any], str]]:
    """Every schema inside of a schema, and where it is."""
    yield schema, ".".join(path)
    if isinstance(schema.get("items"), dict):
        yield from subschemas(schema["items"], (*path, "items"))
    for keyword in ("anyOf", "allOf", "prefixItems"):
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
