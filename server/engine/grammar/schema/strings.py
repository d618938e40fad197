"""Keywords for strings → an expression of their texts. Pure."""

from typing import Any

from server.engine.grammar.regular.automaton import TooManyStatesError
from server.engine.grammar.regular.expression import ANY_TEXT, Expression, both
from server.engine.grammar.regular.length import with_length
from server.engine.grammar.regular.syntax import python_pattern, schema_pattern
from server.engine.grammar.schema.checks import Path, counts, of_type
from server.engine.grammar.schema.formats import FORMATS, UNENFORCED_FORMATS
from server.errors import GrammarError

MAX_LENGTH = 100_000
_ENCODINGS = {
    "base64": r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?",
    "base64url": r"(?:[A-Za-z0-9_-]{4})*(?:[A-Za-z0-9_-]{2}(?:==)?|[A-Za-z0-9_-]{3}=?)?",
    "base32": r"(?:[A-Z2-7]{8})*(?:[A-Z2-7]{2}={6}|[A-Z2-7]{4}={4}|[A-Z2-7]{5}={3}|[A-Z2-7]{7}=)?",
    "base16": r"(?:[0-9A-Fa-f]{2})*",
    "7bit": r"[\x00-\x7f]*",
    "8bit": r"[\s\S]*",
    "binary": r"[\s\S]*",
}


def string_texts(schema: dict[str, Any], path: Path) -> Expression:
    """Texts that all keywords for strings allow.

    Raises:
        GrammarError: one can't be enforced.
    """
    parts = [*_pattern(schema, path), *_format(schema, path), *_encoding(schema, path)]
    found = both(parts)
    limits = counts(schema, ("minLength", "maxLength"), path)
    for name, limit in limits.items():
        if limit > MAX_LENGTH:
            raise GrammarError(f"is supported up to {MAX_LENGTH}", (*path, name))
    if not limits:
        return found
    try:
        return with_length(found, limits.get("minLength", 0), limits.get("maxLength"))
    except TooManyStatesError:
        name = next(reversed(limits))
        reason = f"{name} beside this pattern or format is too large to be enforced"
        raise GrammarError(reason, (*path, name)) from None


def _pattern(schema: dict[str, Any], path: Path) -> list[Expression]:
    if "pattern" not in schema:
        return []
    place = (*path, "pattern")
    return [pattern_texts(of_type(str, schema["pattern"], place), place)]


def pattern_texts(pattern: str, path: Path) -> Expression:
    """Texts in which a pattern is found.

    Raises:
        GrammarError: not all of it can be enforced.
    """
    try:
        return schema_pattern(pattern)
    except GrammarError as error:
        raise GrammarError(error.message, path) from None


def _format(schema: dict[str, Any], path: Path) -> list[Expression]:
    if "format" not in schema:
        return []
    name = of_type(str, schema["format"], (*path, "format"))
    if name in UNENFORCED_FORMATS:
        raise GrammarError("this format is not supported", (*path, "format"))
    return [FORMATS[name]()] if name in FORMATS else []


def _encoding(schema: dict[str, Any], path: Path) -> list[Expression]:
    if "contentEncoding" not in schema:
        return []
    place = (*path, "contentEncoding")
    name = of_type(str, schema["contentEncoding"], place)
    if name.lower() not in _ENCODINGS:
        raise GrammarError("this encoding is not supported", place)
    found = python_pattern(_ENCODINGS[name.lower()])
    return [] if found == ANY_TEXT else [found]
