"""Compiles grammars for one vocabulary: in threads of its own, once each, under a time limit.

A compiled grammar is kept as long as somebody holds it (an open request does), and beyond that as
long as the latest ones fit the memory they are given. xgrammar is imported with the first grammar:
a server without structured requests pays nothing for it.
"""

import asyncio
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from server.engine.grammar.ebnf_text import literal, with_whole_escapes
from server.engine.grammar.regular.ebnf import RuleWriter, plain
from server.engine.grammar.regular.syntax import python_pattern
from server.engine.grammar.schema import JsonSchema, enforceable
from server.engine.types import Grammar
from server.errors import GrammarError

if TYPE_CHECKING:
    import xgrammar

COMPILE_SECONDS = 10.0
"""A grammar that takes longer is refused; one of ordinary size takes milliseconds."""
CACHE_BYTES = 64 * 2**20
_NUM_THREADS = 2
MAX_WHITESPACE = 20
"""Characters of white space between two parts of a JSON text: small models like to go on with line
breaks for ever."""
_MAX_MESSAGE = 200

# `\u` only for control characters: a key can then be written in one way only, so that no
# additional property is a declared one in disguise, and half a surrogate pair can't be written.
_ESCAPE = re.compile(r"^basic_escape ::= .*$", re.MULTILINE)
_STRICT_ESCAPE = r'basic_escape ::= (([\"\\bfnrt]) | ("u00" [01] [A-Fa-f0-9]))'


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The served model's tokens."""

    size: int
    """Ids the model knows; the tokenizer's may be fewer."""
    token_bytes: Callable[[int], bytes]
    """Empty for ids outside of the tokenizer."""
    special_ids: frozenset[int]
    """Never part of a text."""
    eos_ids: frozenset[int]
    """End an answer."""
    encode: Callable[[str], list[int]]
    """The usual tokens of a text, without special ones."""


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class CompiledGrammar:
    """A grammar over a vocabulary; any number of matchers can share it."""

    compiled: "xgrammar.CompiledGrammar"
    vocabulary: Vocabulary
    textless_ids: frozenset[int]
    """Tokens that are no part of a text, such as special ones."""

    def new_matcher(self, stop_ids: Sequence[int]) -> "xgrammar.GrammarMatcher":
        """Stands at the beginning. The stop ids, at least one, are allowed where it is complete."""
        from xgrammar import GrammarMatcher

        return GrammarMatcher(self.compiled, override_stop_tokens=list(stop_ids))


class GrammarCompiler:
    """See the module.

    Args:
        seconds: that `compile` waits at most.
        cache_bytes: of compiled grammars that nobody holds.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        seconds: float = COMPILE_SECONDS,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.vocabulary = vocabulary
        self._seconds = seconds
        self._cache_bytes = cache_bytes
        self._lock = threading.Lock()
        self._held: WeakValueDictionary[Grammar, CompiledGrammar] = WeakValueDictionary()
        self._latest: OrderedDict[Grammar, CompiledGrammar] = OrderedDict()
        self._running: dict[Grammar, Future[CompiledGrammar]] = {}
        self._threads = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="grammar")

    async def compile(self, grammar: Grammar) -> CompiledGrammar:
        """Waits for a thread that compiles it, unless it is known.

        Raises:
            GrammarError: it can't be enforced, or takes too long.
        """
        found = self.find(grammar)
        if found is not None:
            return found
        work = asyncio.wrap_future(self._start(grammar))
        try:
            # Shielded: others may wait for the same, and the next request finds it ready.
            return await asyncio.wait_for(asyncio.shield(work), self._seconds)
        except TimeoutError:
            work.add_done_callback(lambda done: done.cancelled() or done.exception())
            reason = f"takes more than {self._seconds:g} seconds to compile"
            raise GrammarError(reason) from None

    def check_schema(self, schema: JsonSchema) -> None:
        """What `compile` would refuse of it at once.

        Raises:
            GrammarError: a keyword can't be enforced; the path ends with it.
        """
        enforceable(schema)

    def get(self, grammar: Grammar) -> CompiledGrammar:
        """At once where it is known, as that of an open request is; else compiled here.

        Raises:
            GrammarError: it can't be enforced.
        """
        return self.find(grammar) or self._compile(grammar)

    def find(self, grammar: Grammar) -> CompiledGrammar | None:
        """None where it is not known."""
        with self._lock:
            found = self._held.get(grammar)
            if found is not None:
                self._remember(grammar, found)
            return found

    def _start(self, grammar: Grammar) -> Future[CompiledGrammar]:
        with self._lock:
            work = self._running.get(grammar)
            if work is None:
                work = self._running[grammar] = self._threads.submit(self._compile, grammar)
        work.add_done_callback(lambda _: self._running.pop(grammar, None))
        return work

    def _compile(self, grammar: Grammar) -> CompiledGrammar:
        vocabulary = self.vocabulary
        if not vocabulary.eos_ids:
            raise GrammarError("needs a model with an end token")
        try:
            compiled = self._xgrammar(grammar)
        except RecursionError:
            raise GrammarError("is nested too deep") from None
        except RuntimeError as error:
            raise GrammarError(_reason(str(error))) from None
        except UnicodeDecodeError as error:
            # A message of xgrammar's that shows the first byte of a longer character.
            raise GrammarError(_reason(error.object.decode(errors="replace"))) from None
        textless = frozenset(compiled.tokenizer_info.special_token_ids)
        result = CompiledGrammar(compiled, vocabulary, textless)
        with self._lock:
            self._held[grammar] = result
            self._remember(grammar, result)
        return result

    def _remember(self, grammar: Grammar, compiled: CompiledGrammar) -> None:
        self._latest[grammar] = compiled
        self._latest.move_to_end(grammar)
        size = sum(entry.compiled.memory_size_bytes for entry in self._latest.values())
        while size > self._cache_bytes and len(self._latest) > 1:
            size -= self._latest.popitem(last=False)[1].compiled.memory_size_bytes

    @cached_property
    def _backend(self) -> "xgrammar.GrammarCompiler":
        from xgrammar import GrammarCompiler as Backend
        from xgrammar import TokenizerInfo

        vocabulary = self.vocabulary
        hidden = vocabulary.special_ids | vocabulary.eos_ids
        raw = [b"" if i in hidden else vocabulary.token_bytes(i) for i in range(vocabulary.size)]
        info = TokenizerInfo(
            raw, vocab_size=vocabulary.size, stop_token_ids=sorted(vocabulary.eos_ids)
        )
        # One thread: the engine has the other cores. The cache is this class's own.
        return Backend(info, max_threads=1, cache_enabled=False)

    def _xgrammar(self, grammar: Grammar) -> "xgrammar.CompiledGrammar":
        match grammar.kind:
            case "json_object":
                return self._backend.compile_grammar(schema_ebnf({"type": "object"}))
            case "json_schema":
                return self._backend.compile_grammar(schema_ebnf(json.loads(grammar.text)))
            case "regex":
                return self._backend.compile_grammar(regex_ebnf(grammar.text))
            case "choice":
                return self._backend.compile_grammar(choice_ebnf(json.loads(grammar.text)))
            case "ebnf":
                return self._backend.compile_grammar(with_whole_escapes(grammar.text))
            case "structural_tag":
                tag = with_enforceable_schemas(json.loads(grammar.text))
                return self._backend.compile_structural_tag(json.dumps(tag))


def schema_ebnf(schema: JsonSchema) -> str:
    """The grammar of the JSON texts that a schema allows and this server writes.

    Raises:
        GrammarError: not all of it can be enforced.
    """
    from xgrammar import Grammar as Parsed

    text = json.dumps(enforceable(schema), ensure_ascii=False)
    printed = str(Parsed.from_json_schema(text, max_whitespace_cnt=MAX_WHITESPACE))
    ebnf = with_whole_escapes(printed)
    ebnf, count = _ESCAPE.subn(lambda _: _STRICT_ESCAPE, ebnf)
    if count != 1:
        raise RuntimeError("xgrammar's rules for JSON strings are not those expected")
    return ebnf


def choice_ebnf(choices: Sequence[str]) -> str:
    """The grammar of these texts."""
    return "root ::= " + " | ".join(map(literal, choices))


def regex_ebnf(pattern: str) -> str:
    """The grammar of the texts that Python's `re.fullmatch` matches.

    Raises:
        GrammarError: it is no regular expression, or not all of it can be enforced.
    """
    writer = RuleWriter("text_", plain)
    return "\n".join([f"root ::= {writer.rule(python_pattern(pattern))}", *writer.rules])


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
