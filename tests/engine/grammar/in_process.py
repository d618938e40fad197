"""Compiling without processes: tests trust their grammars, and have thousands of them."""

from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any

from server.engine.grammar.compile.compiler import Compiler, Vocabulary
from server.engine.grammar.compile.service import CACHE_BYTES, GrammarCompiler
from server.engine.grammar.compile.worker import Answer, Job, prove


class InProcess:
    """Stands in for `Workers`."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._compiler = Compiler(vocabulary.tokens())

    def submit(self, job: Job, owner: Hashable, finish: Callable[[Answer], Any]) -> "Future[Any]":
        future: Future[Any] = Future()
        try:
            future.set_result(finish(prove(self._compiler, job)))
        except BaseException as error:
            future.set_exception(error)
        return future


def in_process(vocabulary: Vocabulary, cache_bytes: int = CACHE_BYTES) -> GrammarCompiler:
    return GrammarCompiler(vocabulary, InProcess(vocabulary), cache_bytes=cache_bytes)
