"""The server's compiled grammars: each compiled once, under limits, and kept.

A compiled grammar is kept as long as somebody holds it (an open request does), and beyond that as
long as the latest ones fit the memory they are given. Whether a grammar can be compiled at all is
found out in a process of its own (`workers.py`); then it is compiled here, which takes no longer
than it took there, and doesn't hold Python's lock.
"""

import asyncio
import os
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, Protocol, TypeVar
from weakref import WeakValueDictionary

from server.engine.grammar.compile.compiler import CompiledGrammar, Compiler, Tokens, Vocabulary
from server.engine.grammar.compile.spilling import SpillingTokens
from server.engine.grammar.compile.worker import Answer, Check, Compile, Job, Proven, Refused
from server.engine.grammar.compile.workers import QUICK_SECONDS, Workers
from server.engine.types import Grammar, SamplingParams
from server.errors import GrammarError, RateLimitError

CACHE_BYTES = 64 * 2**20
WAIT_SECONDS = 60.0
"""Longest wait for a process and its answer."""
_NICE = 10

T = TypeVar("T")


class Proves(Protocol):
    """What `GrammarCompiler` needs of `Workers`."""

    def submit(
        self, job: Job, owner: Hashable, finish: Callable[[Answer], Any]
    ) -> "Future[Any]": ...


class _Kept(NamedTuple):
    """A grammar among the latest ones."""

    compiled: CompiledGrammar
    size: int
    """Bytes, counted once: asking xgrammar for them at each look-up would take too long."""


class GrammarCompiler:
    """Compiles and keeps grammars as the module describes.

    Args:
        workers: what proves grammars; None for processes that start with the first grammar.
        seconds: longest wait of `compile`.
        cache_bytes: most memory of compiled grammars that no request holds.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        workers: Proves | None = None,
        seconds: float = WAIT_SECONDS,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.vocabulary = vocabulary
        self.spilling = SpillingTokens(vocabulary)
        self._workers = workers or Workers(self._tokens)
        self._seconds = seconds
        self._cache_bytes = cache_bytes
        self._lock = threading.RLock()
        """Guards the dictionaries. The event loop takes it, so nothing is done under it that takes
        long."""
        self._building = threading.Lock()
        """Guards the compiler, whose building takes seconds; for the processes' threads alone."""
        self._compiler: Compiler | None = None
        self._held: WeakValueDictionary[Grammar, CompiledGrammar] = WeakValueDictionary()
        self._latest: OrderedDict[Grammar, _Kept] = OrderedDict()
        self._latest_bytes = 0
        self._running: dict[Grammar, Future[CompiledGrammar]] = {}
        self._num_waiting = Counter[Grammar]()

    async def compile(self, grammar: Grammar, owner: Hashable = None) -> CompiledGrammar:
        """Returns a grammar, compiling it first if it is not known.

        Args:
            owner: the client whose share of the processes is used; clients without one share one.

        Raises:
            GrammarError: it can't be enforced, or takes too much.
            RateLimitError: others' grammars take too long.
        """
        found = self.find(grammar)
        if found is not None:
            return found
        work = self._start(grammar, owner)
        self._num_waiting[grammar] += 1
        try:
            # Shielded: other requests may wait for the same grammar.
            return await self._wait(asyncio.shield(asyncio.wrap_future(work)))
        finally:
            self._num_waiting[grammar] -= 1
            if not self._num_waiting[grammar]:
                del self._num_waiting[grammar]
                work.cancel()  # unless it has begun

    async def prepare(
        self, params: SamplingParams, owner: Hashable = None
    ) -> CompiledGrammar | None:
        """Has ready what a request's grammar needs, so that no step of the engine waits for it;
        None if it has no grammar.

        Raises:
            GrammarError, RateLimitError: as `compile`.
        """
        if params.grammar is None:
            return None
        compiled = await self.compile(params.grammar, owner)
        thinking = params.thinking
        if thinking is not None and not thinking.answer:
            await asyncio.to_thread(self.spilling.prepare, thinking.end)
        return compiled

    async def check_schemas(self, schemas: Sequence[object], owner: Hashable = None) -> None:
        """Refuses the JSON schemas that `compile` would refuse.

        Raises:
            GrammarError: a keyword can't be enforced; the path begins with the schema's number and
                ends with the keyword.
            RateLimitError: others' grammars take too long.
        """
        work = self._workers.submit(Check(tuple(schemas)), owner, _proven)
        await self._wait(asyncio.wrap_future(work))

    async def _wait(self, work: "asyncio.Future[T]") -> T:
        try:
            return await asyncio.wait_for(work, self._seconds)
        except TimeoutError:
            raise RateLimitError(
                "other grammars are being compiled and take long; try again later"
            ) from None

    def get(self, grammar: Grammar) -> CompiledGrammar:
        """Returns a grammar at once where it is known, as an open request's is; else compiles it.

        Raises:
            GrammarError: it can't be enforced.
        """
        return self.find(grammar) or self._start(grammar, None).result()

    def find(self, grammar: Grammar) -> CompiledGrammar | None:
        """The compiled grammar; None where it is not known."""
        with self._lock:
            found = self._held.get(grammar)
            if found is not None:
                self._remember(grammar, found)
            return found

    def _start(self, grammar: Grammar, owner: Hashable) -> "Future[CompiledGrammar]":
        with self._lock:
            work = self._running.get(grammar)
            if work is not None:
                return work
            work = self._workers.submit(
                Compile(grammar), owner, lambda answer: self._finish(grammar, answer)
            )
            self._running[grammar] = work
        work.add_done_callback(lambda _: self._running.pop(grammar, None))
        return work

    def _finish(self, grammar: Grammar, answer: Answer) -> CompiledGrammar:
        proven, compiler = _proven(answer), self._own_compiler()
        if proven.seconds > QUICK_SECONDS:
            compiled = _standing_back(lambda: compiler.compile(proven.text))
        else:
            compiled = compiler.compile(proven.text)
        textless = frozenset(compiled.tokenizer_info.special_token_ids)
        result = CompiledGrammar(compiled, self.vocabulary, textless)
        with self._lock:
            self._held[grammar] = result
            self._remember(grammar, result)
        return result

    def _remember(self, grammar: Grammar, compiled: CompiledGrammar) -> None:
        kept = self._latest.pop(grammar, None)
        if kept is None or kept.compiled is not compiled:
            self._latest_bytes -= 0 if kept is None else kept.size
            kept = _Kept(compiled, compiled.compiled.memory_size_bytes + len(grammar.text))
            self._latest_bytes += kept.size
        self._latest[grammar] = kept  # behind all others
        while self._latest_bytes > self._cache_bytes and len(self._latest) > 1:
            _, oldest = self._latest.popitem(last=False)
            self._latest_bytes -= oldest.size

    def _own_compiler(self) -> Compiler:
        with self._building:
            if self._compiler is None:
                self._compiler = Compiler(self.vocabulary.tokens())
                _ = self._compiler.backend
            return self._compiler

    def _tokens(self) -> Tokens:
        """The vocabulary's tokens. Imports xgrammar here too, while a process starts."""
        return self._own_compiler().tokens


def _proven(answer: Answer) -> Proven:
    if isinstance(answer, Refused):
        raise GrammarError(answer.reason, answer.path)
    return answer


def _standing_back(call: Callable[[], T]) -> T:
    """Makes a call at low priority, so that the engine's threads don't have to wait for it."""
    done: Future[T] = Future()

    def run() -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        try:
            done.set_result(call())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, name="grammar (slow)", daemon=True).start()
    return done.result()
