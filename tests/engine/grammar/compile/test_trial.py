"""What the matcher's calls take, found before the engine follows a grammar."""

from typing import Any

import numpy as np
import pytest
from xgrammar import GrammarMatcher

from server.engine.grammar.compile import trial
from server.engine.grammar.compile.compiler import Compiler, GrammarText
from server.engine.grammar.compile.trial import dearest_call
from server.engine.grammar.compile.worker import Compile, Proven, Refused, prove
from server.engine.types import Grammar
from tests.engine.grammar.bytes import BYTES, EOS

LENGTHS = np.array([1] * EOS + [0])


@pytest.fixture
def compiler() -> Compiler:
    return Compiler(BYTES.tokens())


@pytest.mark.parametrize(
    ("compile_seconds", "fewest", "most"), [(0.0, 4, 4 * 12), (0.4, 101, None)]
)
def test_what_took_long_to_compile_is_tried_for_longer(
    compiler: Compiler,
    monkeypatch: pytest.MonkeyPatch,
    compile_seconds: float,
    fewest: int,
    most: int | None,
) -> None:
    """So long that it comes to what lies behind a long text."""
    masks, fill = list[int](), GrammarMatcher.fill_next_token_bitmask

    def noting(matcher: GrammarMatcher, bits: Any) -> bool:
        masks.append(1)
        return fill(matcher, bits)

    monkeypatch.setattr(GrammarMatcher, "fill_next_token_bitmask", noting)
    compiled = compiler.compile(GrammarText("ebnf", f'root ::= "{"x" * 100}" [ab]*'))
    dearest_call(compiled, LENGTHS, EOS, compile_seconds)
    assert fewest <= len(masks) <= (most or len(masks))


def test_what_is_dear_is_refused(compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Compile(Grammar("ebnf", 'root ::= "a" root | "b"'))
    assert isinstance(prove(compiler, job), Proven)
    monkeypatch.setattr("server.engine.grammar.compile.worker.MAX_SECONDS", 0.0)
    answer = prove(compiler, job)
    assert isinstance(answer, Refused)
    assert "too long to follow" in answer.reason


def test_texts_of_any_length_are_tried(compiler: Compiler) -> None:
    for ebnf in ('root ::= ""', 'root ::= "a"', "root ::= [^a]{40}"):
        compiled = compiler.compile(GrammarText("ebnf", ebnf))
        assert dearest_call(compiled, LENGTHS, EOS, 0.0) < trial.MAX_SECONDS
