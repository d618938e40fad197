"""Compiles grammars for one vocabulary, in two steps: a grammar's text is made of what the request
says, and xgrammar compiles it.

How long that takes depends on what the client sends. So it is done first in a process that can be
ended (`worker.py`); once it is known to be harmless, the second step is done again here. xgrammar
is imported with the first grammar: a server without structured requests pays nothing for it.
"""

import json
import re
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from server.engine.grammar.compile.ends import Spelling
from server.engine.grammar.regular.automaton import TooManyStatesError
from server.engine.grammar.regular.ebnf import RuleWriter, plain
from server.engine.grammar.regular.ebnf_text import literal, with_whole_escapes
from server.engine.grammar.regular.syntax import python_pattern
from server.engine.grammar.schema.checks import JsonSchema
from server.engine.grammar.schema.converter import enforceable
from server.engine.types import Grammar
from server.errors import GrammarError

if TYPE_CHECKING:
    import xgrammar

MAX_WHITESPACE = 20
"""Most white space between two parts of a JSON text: small models tend to write line breaks without
end."""
_MAX_MESSAGE = 200

# `\u` only for control characters: a key can then be written in one way only, so that no
# additional property is a declared one in disguise, and half a surrogate pair can't be written.
_ESCAPE = re.compile(r"^basic_escape ::= .*$", re.MULTILINE)
_STRICT_ESCAPE = r'basic_escape ::= (([\"\\bfnrt]) | ("u00" [01] [A-Fa-f0-9]))'


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The served model's tokens."""

    size: int
    """Number of ids that the model knows; the tokenizer may know fewer."""
    token_bytes: Callable[[int], bytes]
    """A token's bytes; empty for ids that the tokenizer does not know."""
    special_ids: frozenset[int]
    """Ids that are never part of a text."""
    eos_ids: frozenset[int]
    """Ids that end an answer."""
    encode: Callable[[str], list[int]]
    """The usual tokens of a text, without special ones."""

    def tokens(self) -> "Tokens":
        hidden = self.special_ids | self.eos_ids
        texts = (b"" if i in hidden else self.token_bytes(i) for i in range(self.size))
        return Tokens(tuple(texts), tuple(sorted(self.eos_ids)))


class Tokens(NamedTuple):
    """What compiling needs of a vocabulary; can be sent to another process."""

    texts: tuple[bytes, ...]
    """The bytes of each id; empty where it is never part of a text."""
    eos_ids: tuple[int, ...]


class GrammarText(NamedTuple):
    """What xgrammar compiles."""

    kind: Literal["ebnf", "structural_tag"]
    text: str


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class CompiledGrammar:
    """A grammar over a vocabulary; any number of matchers can share it."""

    compiled: "xgrammar.CompiledGrammar"
    vocabulary: Vocabulary
    textless_ids: frozenset[int]
    """Tokens that are no part of a text, such as special ones."""

    def new_matcher(self, stop_ids: Sequence[int]) -> "xgrammar.GrammarMatcher":
        """A matcher at the beginning. It allows the stop ids, at least one, where the text is
        complete."""
        from xgrammar import GrammarMatcher

        return GrammarMatcher(self.compiled, override_stop_tokens=list(stop_ids))


class Compiler:
    """xgrammar's compiler for one vocabulary."""

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens

    @cached_property
    def backend(self) -> "xgrammar.GrammarCompiler":
        from xgrammar import GrammarCompiler, TokenizerInfo

        texts, eos_ids = self.tokens
        info = TokenizerInfo(list(texts), vocab_size=len(texts), stop_token_ids=list(eos_ids))
        # One thread: the engine has the other cores. The cache is `service.py`'s own.
        return GrammarCompiler(info, max_threads=1, cache_enabled=False)

    @cached_property
    def spelling(self) -> Spelling:
        return Spelling(self.tokens.texts)

    def compile(self, text: GrammarText) -> "xgrammar.CompiledGrammar":
        """Compiles a grammar's text.

        Raises:
            GrammarError: xgrammar refuses it.
        """
        with _errors_for_people():
            match text.kind:
                case "ebnf":
                    return self.backend.compile_grammar(text.text)
                case "structural_tag":
                    return self.backend.compile_structural_tag(text.text)

    def parse(self, text: GrammarText) -> "xgrammar.Grammar":
        """The rules as they are before xgrammar optimises them.

        Raises:
            GrammarError: xgrammar refuses it.
        """
        from xgrammar import Grammar as Parsed

        with _errors_for_people():
            match text.kind:
                case "ebnf":
                    return Parsed.from_ebnf(text.text)
                case "structural_tag":
                    return Parsed.from_structural_tag(text.text)


@contextmanager
def _errors_for_people() -> Generator[None]:
    try:
        yield
    except RecursionError:
        raise GrammarError("is nested too deep") from None
    except RuntimeError as error:
        raise GrammarError(_reason(str(error))) from None
    except UnicodeDecodeError as error:
        # xgrammar's message quotes only the first byte of a longer character.
        raise GrammarError(_reason(error.object.decode(errors="replace"))) from None


def grammar_text(grammar: Grammar) -> GrammarText:
    """What a request asks for, as xgrammar takes it.

    Raises:
        GrammarError: it can't be enforced.
    """
    with _errors_for_people():
        match grammar.kind:
            case "json_object":
                return GrammarText("ebnf", schema_ebnf({"type": "object"}))
            case "json_schema":
                return GrammarText("ebnf", schema_ebnf(json.loads(grammar.text)))
            case "regex":
                return GrammarText("ebnf", regex_ebnf(grammar.text))
            case "choice":
                return GrammarText("ebnf", choice_ebnf(json.loads(grammar.text)))
            case "ebnf":
                return GrammarText("ebnf", with_whole_escapes(grammar.text))
            case "structural_tag":
                tag = with_enforceable_schemas(json.loads(grammar.text))
                return GrammarText("structural_tag", json.dumps(tag))


def schema_ebnf(schema: JsonSchema) -> str:
    """The grammar of the JSON texts that a schema allows and this server writes.

    Raises:
        GrammarError: not all of it can be enforced.
    """
    from xgrammar import Grammar as Parsed

    made = enforceable(schema)
    text = json.dumps(made.schema, ensure_ascii=False)
    printed = str(Parsed.from_json_schema(text, max_whitespace_cnt=MAX_WHITESPACE))
    ebnf = with_whole_escapes(printed)
    ebnf, count = _ESCAPE.subn(lambda _: _STRICT_ESCAPE, ebnf)
    if count != 1:
        raise RuntimeError("xgrammar's rules for JSON strings are not those expected")
    return made.texts.write(ebnf)


def choice_ebnf(choices: Sequence[str]) -> str:
    """The grammar that allows exactly these texts."""
    return "root ::= " + " | ".join(map(literal, choices))


def regex_ebnf(pattern: str) -> str:
    """The grammar for the texts that Python's `re.fullmatch` matches.

    Raises:
        GrammarError: it is no regular expression, or not all of it can be enforced.
    """
    writer = RuleWriter("text_", plain)
    try:
        root = writer.rule(python_pattern(pattern))
    except TooManyStatesError:
        raise GrammarError("is too large to be enforced") from None
    return "\n".join([f"root ::= {root}", *writer.rules])


def with_enforceable_schemas(tag: Any) -> Any:
    """A structural tag whose JSON schemas are grammars that enforce all of them, and whose grammars
    are read as `compile` reads them.

    Raises:
        GrammarError: not all of a schema can be enforced.
    """
    if isinstance(tag, list):
        return [with_enforceable_schemas(entry) for entry in tag]
    if not isinstance(tag, dict):
        return tag
    if tag.get("type") == "json_schema" and tag.get("style", "json") == "json":
        return {"type": "grammar", "grammar": schema_ebnf(tag.get("json_schema", True))}
    if tag.get("type") == "regex":
        return {"type": "grammar", "grammar": regex_ebnf(tag.get("pattern", ""))}
    if tag.get("type") == "grammar" and isinstance(tag.get("grammar"), str):
        return {"type": "grammar", "grammar": with_whole_escapes(tag["grammar"])}
    return {key: with_enforceable_schemas(value) for key, value in tag.items()}


def _reason(message: str) -> str:
    """xgrammar's message without time, file and line."""
    first = next(iter(message.strip().splitlines()), "can't be compiled")
    reason = re.sub(r"^\[[^\]]*\] \S+:\d+: (Check failed: .* is (?:true|false): )?", "", first)
    return f"can't be enforced: {reason[:_MAX_MESSAGE]}"
