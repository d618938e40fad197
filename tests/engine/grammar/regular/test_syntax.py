"""Patterns mean what Python's `re` means by them, or are refused by name."""

import contextlib
import re
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.errors import InvalidArgument

from server.engine.grammar.regular.syntax import python_pattern
from server.engine.types import Grammar
from server.errors import GrammarError
from tests.engine.grammar.bytes import matches

LETTERS = "abAB1_ -^$.\n\té\u0130ß\u017fKς²٣\u2028\u00a0\\]["
ATOMS = [
    *("a", "b", "A", "1", "_", " ", "-", "é", "ß", "ς", r"\^", r"\$", r"\.", r"\\", r"\]", r"\-"),
    *(".", r"\d", r"\w", r"\s", r"\D", r"\W", r"\S", r"\n", r"\t", r"\x41", r"\u00e9", r"\101"),
    *(r"\U0001f642", r"\N{LATIN SMALL LETTER A}", "[ab]", "[^ab]", r"[\^a]", "[a^]", "[]a]"),
    *("[^]a]", r"[\]\\]", "[a-z]", "[A-B-]", r"[\d_]", r"[^\w]", r"[^\W\n]", r"[\x41-\x43é]"),
    *(
        "[[a]",
        r"[\s\S]",
        "[^.]",
        "[.$]",
        r"[\-a]",
        r"[\n-a]",
        "(?i:a)",
        "(?i:[^A-B])",
        "(?i:\u017f)",
    ),
    *("(?s:.)", "(?a:\\w)", "(?-i:a)", "(?P<n>a)", "(?:)", "()", "(?#c)", "K", "(?i:K)"),
]
WIDE_ATOMS = [r"[\x00-\U0010ffff]", r"[^\x00-\uffff]", r"(?i:[\s\S])"]
"""Ranges over the surrogates."""
FLAGS = ["", "", "", "(?i)", "(?s)", "(?a)", "(?m)", "(?x)", "(?ia)"]
LOOKS = ["", "", "", "(?=a)", "(?!b)", r"(?!.*\n)", "(?=.*[1b])", "(?=.?$)", r"(?!\w+\Z)"]
COUNTS = ["*", "+", "?", "*?", "+?", "??", "{2}", "{1,2}", "{,2}", "{1,}", "{0}", "{0,1}?", "{"]
EDGES = [("", ""), ("^", "$"), (r"\A", r"\Z"), ("^", ""), ("(^", "$)")]


def joined(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.lists(inner, min_size=1, max_size=3).map("".join),
        st.lists(inner, min_size=1, max_size=3).map("|".join).map(lambda p: f"({p})"),
        st.tuples(inner, st.sampled_from(COUNTS)).map(lambda t: f"(?:{t[0]}){t[1]}"),
    )


PATTERNS = st.tuples(
    st.sampled_from(FLAGS),
    st.sampled_from(EDGES),
    st.sampled_from(LOOKS),
    st.sampled_from(["", "", "a?", "."]),
    st.sampled_from(LOOKS),
    st.recursive(st.sampled_from(ATOMS), joined, max_leaves=6),
).map(lambda t: f"{t[0]}{t[1][0]}{''.join(t[2:])}{t[1][1]}")


def compiled(pattern: str) -> re.Pattern[str] | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return re.compile(pattern)
    except re.error:
        return None


def matched(grammar: Grammar, text: str) -> bool:
    try:
        return matches(grammar, text)
    except GrammarError as error:
        if error.message == "no text is left":
            return False
        raise


LONGEST = 10
"""Characters of a text: for longer ones, Python itself may try exponentially many ways."""


def texts(pattern: re.Pattern[str]) -> st.SearchStrategy[str]:
    """Many that match, and some that may not."""
    own = st.from_regex(pattern, fullmatch=True, alphabet=LETTERS)
    own = own.map(lambda text: text[:LONGEST])
    return own | own.map(lambda text: text + "a") | st.text(LETTERS, max_size=4)


@settings(max_examples=100, derandomize=True, database=None, deadline=None)
@given(st.data())
def test_patterns_match_what_pythons_fullmatch_matches(data: st.DataObject) -> None:
    pattern = data.draw(PATTERNS)
    expected = compiled(pattern)
    if expected is None:
        with pytest.raises(GrammarError):
            python_pattern(pattern)
        return
    grammar = Grammar("regex", pattern)
    drawn = data.draw(st.lists(st.text(LETTERS, max_size=4), max_size=5))
    # The letters may not do for a text, and `[[` warns of what it may mean one day.
    with contextlib.suppress(InvalidArgument), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        drawn += data.draw(st.lists(texts(expected), max_size=8))
    for text in [*drawn, *LETTERS, "", "aa", "ab", "AB", "a\n"]:
        assert matched(grammar, text) == bool(expected.fullmatch(text)), (pattern, text)


@pytest.mark.parametrize("atom", [*ATOMS, *WIDE_ATOMS])
def test_every_atom_by_every_letter(atom: str) -> None:
    for pattern in (atom, f"(?i){atom}", f"(?a){atom}"):
        expected = compiled(pattern)
        assert expected is not None
        for letter in LETTERS + "\ue000🙂":
            assert matches(Grammar("regex", pattern), letter) == bool(expected.fullmatch(letter))


@pytest.mark.parametrize(
    "pattern",
    [r"(?=.?$)[^b]*", r"(?=.*$)[^b]+", r"(?!b?$)[^b]*", r"(?=a\Z)a\s?", r"(?=(a$|b))[ab]\s*"],
)
def test_a_dollar_looked_for_stands_before_a_last_line_feed_too(pattern: str) -> None:
    for text in ("", "\n", "x", "a", "a\n", "b\n", "xy\n", "\n\n", "a\n\n"):
        expected = re.fullmatch(pattern, text) is not None
        assert matches(Grammar("regex", pattern), text) == expected, text


REFUSED = [
    (r"((?=a)b)c", "look ahead"),
    (r"(?:(?!b)a)*", "look ahead"),
    (r"(?<=a)b", "look behind"),
    (r"(?<!a)b", "look behind"),
    (r"(?=^a)a", "^ can only"),
    (r"(?>a)b", "atomic"),
    (r"a*+b", "possessive"),
    (r"(a)\1", "references to groups"),
    (r"(a)?(?(1)b|c)", "condition"),
    (r"\bword\b", r"\b and \B"),
    (r"a^b", r"^ can only be enforced at the pattern's ends"),
    (r"(a|b$)c", "$ can only"),
    (r"(^a)*", "^ can only"),
    (r"a\Ab", r"\A can only"),
    (r"\p{L}", r"bad escape \p"),
    (r"[\p{L}]", r"bad escape \p"),
    (r"\h", r"bad escape \h"),
    (r"\R", r"bad escape \R"),
    (r"\Uzz", r"incomplete escape \U"),
    (r"\z", r"bad escape \z"),
    ("(", "missing )"),
    ("[b-a]", "bad character range"),
    ("a{2,1}", "min repeat greater than max repeat"),
    ("*", "nothing to repeat"),
    ("a{99999999999999}", "too large"),
    ("(?<n>a)", "unknown extension"),
    (f"{'(' * 2000}a{')' * 2000}", "nested too deep"),
]


@pytest.mark.parametrize(("pattern", "reason"), REFUSED, ids=lambda v: v[:20])
def test_refused_by_name(pattern: str, reason: str) -> None:
    with pytest.raises(GrammarError) as refused:
        python_pattern(pattern)
    assert reason in refused.value.message


def test_repetitions_of_repetitions_are_one() -> None:
    """A text can be read in one way only, however the pattern puts it."""
    assert python_pattern("((a+)+)+b") == python_pattern("a+b")
    assert python_pattern("(a?){1000}") == python_pattern("a{0,1000}")
    assert python_pattern("(?:a{0,3}){2,4}") == python_pattern("a{0,12}")
    assert python_pattern("(?:a{2}){1,2}") != python_pattern("a{2,4}")
