"""What the value of a setting may be, and what it may look like as text of a command line or of the
environment."""

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, SecretStr
from pydantic_settings import NoDecode

PolicyName = Literal["off", "chain", "cape", "beam", "auto"]
"""How many tokens a step proposes, and in which shape: see `engine/speculation/policies.py`."""

PrefixCaching = Literal["per-key", "shared", "off"]

UnknownFields = Literal["refuse", "warn"]

ReasoningFormatName = Literal["auto", "none", "think", "harmony"]
ToolParserName = Literal["auto", "hermes", "llama3", "mistral", "mistral_args", "smollm2"]

DType = Literal["auto", "float32", "bfloat16", "float16"]

GenerationConfig = Literal["model", "openai"]

LogFormat = Literal["text", "json"]

QuantizationChoice = Literal["auto", "none", "int8", "int4"]

ModelBackend = Literal["auto", "native", "transformers"]

MAX_REPLICAS = 1024
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def parse_bytes(value: object) -> object:
    """`"512M"` → 536870912. Other types pass through for pydantic to judge."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", value, re.IGNORECASE)
    if match is None:
        raise ValueError("expected a size such as 512M or 2G")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def parse_list(value: object) -> object:
    """`"0.3,0.6"` → `["0.3", "0.6"]`."""
    return value.split(",") if isinstance(value, str) else value


def parse_texts(value: object) -> object:
    """`"a, b"` → `["a", "b"]`; nothing is no entry."""
    if not isinstance(value, str):
        return value
    return [text for part in value.split(",") if (text := part.strip())]


def parse_secrets(value: object) -> object:
    """As `parse_texts`, but a text without an entry is a mistake, such as a variable that is set to
    another one that is not: it would leave open what the secret is to close."""
    texts = parse_texts(value)
    if isinstance(value, str) and not texts:
        raise ValueError("is set but has no entry; where none is needed, leave it out")
    return texts


def parse_range(value: object) -> object:
    """`"1:4"` → `(1, 4)`."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d{1,9})\s*:\s*(\d{1,9})\s*", value)
    if match is None:
        raise ValueError("expected MIN:MAX such as 1:4")
    return int(match[1]), int(match[2])


def check_range(value: tuple[int, int]) -> tuple[int, int]:
    if not 1 <= value[0] <= value[1] <= MAX_REPLICAS:
        raise ValueError(f"expected MIN:MAX with 1 ≤ MIN ≤ MAX ≤ {MAX_REPLICAS}")
    return value


@dataclass(frozen=True, slots=True)
class Repeatable:
    """Marks a list whose command-line option is given once per entry."""


Bytes = Annotated[int, BeforeValidator(parse_bytes)]
Floats = Annotated[tuple[float, ...], NoDecode, BeforeValidator(parse_list)]
Ints = Annotated[tuple[int, ...], NoDecode, BeforeValidator(parse_list)]
Range = Annotated[
    tuple[int, int], NoDecode, BeforeValidator(parse_range), AfterValidator(check_range)
]
Texts = Annotated[tuple[str, ...], NoDecode, BeforeValidator(parse_texts)]
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(parse_texts), Repeatable()]
Secrets = Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(parse_secrets), Repeatable()]
