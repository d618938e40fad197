"""Compiling: kinds, errors, the cache, the time limit; and what the engine's front does with it."""

import asyncio
import gc
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import xgrammar

from server.engine.async_engine import AsyncEngine
from server.engine.grammar.compile.compiler import (
    Vocabulary,
    choice_ebnf,
    with_enforceable_schemas,
)
from server.engine.grammar.compile.service import GrammarCompiler
from server.engine.grammar.compile.worker import Answer, Job
from server.engine.types import FinishReason, Grammar
from server.errors import GrammarError, InvalidRequestError, RateLimitError
from tests.engine.grammar.bytes import BYTES, matches
from tests.engine.grammar.in_process import InProcess, in_process
from tests.engine.grammar.vocabulary import GRAMMARS, compiler, states
from tests.engine.tiny import TinyEngine, make_request

TAG = {
    "type": "structural_tag",
    "format": {
        "type": "sequence",
        "elements": [
            {"type": "const_string", "value": "<f>"},
            {"type": "json_schema", "json_schema": {"type": "integer", "maximum": 9}},
        ],
    },
}


def test_regex() -> None:
    assert matches(Grammar("regex", "a{2,3}|b"), "aa")
    assert not matches(Grammar("regex", "a{2,3}|b"), "ab")


def test_choice_of_any_characters() -> None:
    choices = ["", 'a"b\\', "é\n🙂", "\\u0041", "root ::= x"]
    grammar = Grammar("choice", json.dumps(choices))
    for text in choices:
        assert matches(grammar, text)
    for text in ("a", "A", 'a"b', "é"):
        assert not matches(grammar, text)
    assert choice_ebnf(["a", "\n"]) == 'root ::= "a" | "\\U0000000a"'


def test_ebnf() -> None:
    grammar = Grammar("ebnf", 'root ::= "(" root ")" | [a-z]')
    assert matches(grammar, "((x))")
    assert not matches(grammar, "((x)")


def test_structural_tag_and_the_schemas_in_it() -> None:
    assert matches(Grammar("structural_tag", json.dumps(TAG)), "<f>-3")
    assert not matches(Grammar("structural_tag", json.dumps(TAG)), "<f>10")
    bad = json.loads(json.dumps(TAG))
    bad["format"]["elements"][1]["json_schema"] = {"not": {}}
    with pytest.raises(GrammarError, match="not is not supported"):
        with_enforceable_schemas(bad)


@pytest.mark.parametrize(
    ("grammar", "message"),
    [
        (Grammar("regex", "("), "is no regular expression: missing )"),
        (Grammar("regex", "(?<=a)b"), "groups that look behind"),
        (Grammar("ebnf", "Íù"), "can't be enforced: EBNF"),
        (Grammar("ebnf", "root ::= y"), 'Rule "y" is not defined'),
        (Grammar("structural_tag", "{}"), "can't be enforced: Invalid structural tag"),
        (Grammar("json_schema", '{"type": "string", "pattern": "\\\\bx"}'), "ends of words"),
    ],
)
def test_errors_are_for_people(grammar: Grammar, message: str) -> None:
    with pytest.raises(GrammarError) as error:
        in_process(BYTES).get(grammar)
    assert message in error.value.message
    assert "/project/" not in error.value.message


def test_a_model_without_an_end_token_can_end_no_answer() -> None:
    endless = Vocabulary(2, lambda i: b"a", frozenset(), frozenset(), lambda text: [])
    with pytest.raises(GrammarError, match="end token"):
        in_process(endless).get(Grammar("regex", "a"))


class Counting(InProcess):
    """Counts, and waits until it may compile."""

    def __init__(self) -> None:
        super().__init__(BYTES)
        self.num_compiled = 0
        self.may_compile = threading.Event()
        self.may_compile.set()
        self._thread = ThreadPoolExecutor(1)

    def submit(self, job: Job, owner: Hashable, finish: Callable[[Answer], Any]) -> "Future[Any]":
        return self._thread.submit(self._compile, job, finish)

    def _compile(self, job: Job, finish: Callable[[Answer], Any]) -> Any:
        self.may_compile.wait(60)
        self.num_compiled += 1
        return super().submit(job, None, finish).result()


async def test_many_that_ask_at_once_share_one_compilation() -> None:
    counting = Counting()
    compiler = GrammarCompiler(BYTES, counting)
    counting.may_compile.clear()
    waiting = [asyncio.create_task(compiler.compile(Grammar("regex", "ab"))) for _ in range(5)]
    await asyncio.sleep(0)
    counting.may_compile.set()
    assert len({id(found) for found in await asyncio.gather(*waiting)}) == 1
    await compiler.compile(Grammar("regex", "ab"))
    assert counting.num_compiled == 1


async def test_whoever_waits_too_long_may_come_again() -> None:
    counting = Counting()
    compiler = GrammarCompiler(BYTES, counting, seconds=0.01)
    counting.may_compile.clear()
    with pytest.raises(RateLimitError, match="try again later"):
        await compiler.compile(Grammar("regex", "ab"))
    with pytest.raises(RateLimitError, match="try again later"):
        await compiler.check_schemas([{}])
    counting.may_compile.set()


async def test_what_nobody_waits_for_any_more_is_not_begun() -> None:
    counting = Counting()
    compiler = GrammarCompiler(BYTES, counting)
    counting.may_compile.clear()
    regexes = [Grammar("regex", text) for text in ("a", "b", "b", "c")]
    tasks = [asyncio.create_task(compiler.compile(regex)) for regex in regexes]
    await asyncio.sleep(0)
    for task in (tasks[1], tasks[3]):
        task.cancel()
    await asyncio.wait([tasks[1], tasks[3]])
    counting.may_compile.set()
    assert await tasks[2] is compiler.find(regexes[2])
    await tasks[0]
    await compiler.compile(Grammar("regex", "d"))
    assert counting.num_compiled == 3  # not c


async def test_an_error_is_not_kept() -> None:
    counting = Counting()
    compiler = GrammarCompiler(BYTES, counting)
    for _ in range(2):
        with pytest.raises(GrammarError):
            await compiler.compile(Grammar("regex", "("))
    assert counting.num_compiled == 2


async def test_the_memory_is_bounded_but_what_is_held_stays() -> None:
    counting = Counting()
    compiler = GrammarCompiler(BYTES, counting, cache_bytes=1)
    first, second = Grammar("regex", "first"), Grammar("regex", "second")
    held = await compiler.compile(first)
    await compiler.compile(second)
    assert compiler.get(first) is held  # although the cache has room for one
    del held
    await asyncio.sleep(0)  # what waited lets go of the second one
    gc.collect()
    await compiler.compile(second)
    gc.collect()
    assert counting.num_compiled == 3  # the second one was dropped for the first
    assert compiler.find(first) is None


def test_sizes_are_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often a grammar is looked up; and the total stays right as grammars come and go."""
    num_asked = 0

    def size(_: object) -> int:
        nonlocal num_asked
        num_asked += 1
        return 100

    monkeypatch.setattr(xgrammar.CompiledGrammar, "memory_size_bytes", property(size))
    compiler = in_process(BYTES, cache_bytes=3 * 101)
    regexes = [Grammar("regex", text) for text in "abcde"]
    for regex in regexes[:3]:
        compiler.get(regex)
    assert all(compiler.find(regexes[i % 3]) is not None for i in range(1, 10))
    assert num_asked == 3
    compiler.get(regexes[3])
    compiler.get(regexes[4])
    gc.collect()
    known = [compiler.find(regex) is not None for regex in regexes]
    assert known == [True, False, False, True, True]
    assert num_asked == 5


async def test_the_event_loop_does_not_wait_while_the_compiler_is_built() -> None:
    """Another thread stands for the loop's, so that the test fails where it would wait."""
    is_building, go_on = threading.Event(), threading.Event()

    def slowly(token_id: int) -> bytes:
        is_building.set()
        go_on.wait(60)
        return BYTES.token_bytes(token_id)

    compiler = GrammarCompiler(replace(BYTES, token_bytes=slowly), Counting())
    first = asyncio.create_task(compiler.compile(Grammar("regex", "a")))
    try:
        await asyncio.to_thread(is_building.wait, 60)
        found = asyncio.to_thread(compiler.find, Grammar("regex", "b"))
        assert await asyncio.wait_for(found, 20) is None
        second = asyncio.create_task(compiler.compile(Grammar("regex", "b")))
        await asyncio.sleep(0)
    finally:
        go_on.set()
    await asyncio.gather(first, second)


async def test_schemas_are_checked_and_named_by_their_number() -> None:
    compiler = in_process(BYTES)
    await compiler.check_schemas([{"type": "object"}, True])
    with pytest.raises(GrammarError, match="not is not supported") as error:
        await compiler.check_schemas([{}, {"properties": {"a": {"not": {}}}}])
    assert error.value.path == ("1", "properties", "a", "not")


async def test_the_engine_holds_the_grammars_of_its_requests() -> None:
    tiny = TinyEngine(grammars=states())
    engine = AsyncEngine(tiny.scheduler, tiny.runner, lambda stats: None, compiler())
    engine.start()
    request = make_request("r", [1, 2], max_tokens=60, grammar=GRAMMARS["choice"])
    outputs = [output async for output in engine.generate(request)]
    assert outputs[-1].finish_reason == "stop"
    broken = make_request("s", [1, 2], grammar=Grammar("regex", "("))
    with pytest.raises(GrammarError):
        _ = [output async for output in engine.generate(broken)]
    await engine.stop()


async def test_an_id_that_is_taken_while_its_grammar_compiles() -> None:
    """Both requests come before either is with the engine, which the second one must not end."""
    tiny, counting = TinyEngine(grammars=states()), Counting()
    grammars = GrammarCompiler(BYTES, counting)
    engine = AsyncEngine(tiny.scheduler, tiny.runner, lambda stats: None, grammars)
    engine.start()
    counting.may_compile.clear()
    request = make_request("r", [1, 2], max_tokens=60, grammar=GRAMMARS["choice"])

    async def reason() -> FinishReason | None:
        return [output async for output in engine.generate(request)][-1].finish_reason

    both = [asyncio.create_task(reason()) for _ in range(2)]
    await asyncio.sleep(0)
    counting.may_compile.set()
    ended = asyncio.gather(*both, return_exceptions=True)
    first, second = await asyncio.wait_for(ended, 20)
    assert first == "stop"
    assert isinstance(second, InvalidRequestError)
    assert await reason() == "stop"
    await engine.stop()


async def test_an_engine_without_grammars_says_so() -> None:
    tiny = TinyEngine()
    engine = AsyncEngine(tiny.scheduler, tiny.runner, lambda stats: None)
    with pytest.raises(GrammarError, match="no grammars"):
        async for _ in engine.generate(make_request("r", [1], grammar=GRAMMARS["choice"])):
            pass


def test_xgrammar_is_imported_with_the_first_grammar() -> None:
    code = "import sys, server.loading.model; sys.exit('xgrammar' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
