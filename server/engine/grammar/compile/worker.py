"""A process in which grammars are compiled and tried out, so that it can be ended.

It gets jobs over a pipe, one at a time, and answers each. The process that started it
(`workers.py`) ends it when a job takes too long. The system limits its memory, and its CPU time in
case that process is gone.
"""

import importlib
import os
import resource
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import ModuleType
from typing import NamedTuple

import numpy as np

from server.engine.grammar.compile.compiler import Compiler, GrammarText, Tokens, grammar_text
from server.engine.grammar.compile.ends import can_end
from server.engine.grammar.compile.trial import MAX_SECONDS, dearest_call
from server.engine.grammar.schema.converter import enforceable
from server.engine.types import Grammar
from server.errors import GrammarError

MAX_BYTES = 2**30
"""Memory that jobs may take, beyond what the process has at its start."""
_MOST_SECONDS = 60
_STACK_BYTES = 4 * 2**20
"""Less than the server's own threads have, so that too deep nesting fails here first."""


class Compile(NamedTuple):
    """Job: make sure that a grammar can be enforced, and at what cost."""

    grammar: Grammar


class Check(NamedTuple):
    """Job: make sure that JSON schemas can be enforced."""

    schemas: tuple[object, ...]


Job = Compile | Check


class Proven(NamedTuple):
    """Answer: the grammar is harmless."""

    text: GrammarText
    """Empty for schemas."""
    seconds: float
    """CPU time that compiling the text took."""


class Refused(NamedTuple):
    """Answer: the grammar, or a schema, can't be enforced.

    Args:
        path: as GrammarError's; begins with the schema's number where schemas are checked.
    """

    reason: str
    path: tuple[str, ...] = ()


Answer = Proven | Refused
NO_MEMORY = Refused("needs too much memory to compile")


def prove(compiler: Compiler, job: Job) -> Answer:
    """Does a job, without a limit of its own."""
    try:
        return _check(job) if isinstance(job, Check) else _compile(compiler, job.grammar)
    except GrammarError as error:
        return Refused(error.message, error.path)
    except RecursionError:
        return Refused("is nested too deep")
    except MemoryError:
        return NO_MEMORY


def _check(job: Check) -> Proven:
    for number, schema in enumerate(job.schemas):
        try:
            enforceable(schema)  # pyright: ignore[reportArgumentType]
        except GrammarError as error:
            raise GrammarError(error.message, (str(number), *error.path)) from None
    return Proven(GrammarText("ebnf", ""), 0.0)


def _compile(compiler: Compiler, grammar: Grammar) -> Proven:
    texts, eos_ids = compiler.tokens
    if not eos_ids:
        raise GrammarError("needs a model with an end token")
    text = grammar_text(grammar)
    rules = compiler.parse(text).serialize_json()
    if not can_end(rules, lambda _: True):
        raise GrammarError("has no text that ends: each rule leads to itself or to another such")
    if not can_end(rules, compiler.spelling.can_write):
        raise GrammarError("has no text that this model's tokens can write")
    started = time.thread_time()
    compiled = compiler.compile(text)
    seconds = time.thread_time() - started
    lengths = np.fromiter(map(len, texts), dtype=np.intp, count=len(texts))
    if dearest_call(compiled, lengths, eos_ids[0], seconds) > MAX_SECONDS:
        reason = "takes too long to follow: ambiguous rules and nested repetition are the usual"
        raise GrammarError(f"{reason} reason")
    return Proven(text, seconds)


def main(handle: int) -> None:
    """Answers jobs until the other end of the pipe closes.

    Args:
        handle: the pipe's file descriptor. The first message on it is the vocabulary's tokens.
    """
    with Connection(handle) as server:
        compiler = Compiler(_received(server, Tokens))
        _import_xgrammar_alone()
        _ = compiler.backend
        _limit_memory()
        threading.stack_size(_STACK_BYTES)
        server.send("ready")
        while True:
            try:
                job = server.recv()
            except EOFError:
                return
            _limit_time()
            answer = _in_thread(lambda job=job: prove(compiler, job))
            if answer is NO_MEMORY:
                os._exit(1)  # frees its caches too; the server notices, and starts another process
            server.send(answer)


def _received(server: Connection, kind: Callable[..., Tokens]) -> Tokens:
    return kind(*server.recv())


def _in_thread(call: Callable[[], Answer]) -> Answer:
    answers = list[Answer]()
    thread = threading.Thread(target=lambda: answers.append(call()))
    thread.start()
    thread.join()
    return answers[0] if answers else Refused("can't be compiled")


def _limit_memory() -> None:
    with open("/proc/self/statm", "rb") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MAX_BYTES, size + MAX_BYTES))


def _limit_time() -> None:
    """Limits CPU time, in case no process is left to end this one."""
    soft = int(time.process_time()) + _MOST_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))


class _Absent(ModuleType):
    """Stands in for a package whose import is not needed here; any name in it is an empty class."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def _import_xgrammar_alone() -> None:
    """Imports xgrammar without torch, which it needs for masks on GPUs, and transformers, which it
    needs to read tokenizers. They take seconds and hundreds of megabytes; its compiler needs
    neither."""
    sys.modules["torch"] = None  # pyright: ignore[reportArgumentType]
    importlib.import_module("tvm_ffi")  # it knows that torch can be missing

    torch = _Absent("torch")
    torch.tensor = lambda *_, **__: None  # pyright: ignore[reportAttributeAccessIssue]
    sys.modules |= {"torch": torch, "transformers": _Absent("transformers")}
