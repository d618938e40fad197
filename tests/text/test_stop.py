from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from server.text.stop import StopStrings

ab_texts = st.text("ab", max_size=30)
ab_strings = st.lists(st.text("ab", min_size=1, max_size=5), max_size=3)


def feed(strings: list[str], chunks: list[str]) -> tuple[list[str], str | None]:
    """→ (released texts, stop string found), the end of the text included."""
    stop = StopStrings(strings)
    released: list[str] = []
    for chunk in chunks:
        result = stop.push(chunk)
        released.append(result.text)
        if result.matched is not None:
            return released, result.matched
    return [*released, stop.flush()], None


def cut_by_definition(text: str, strings: list[str]) -> tuple[str, str | None]:
    """The slow way: at each end, from left to right, the longest string that ends there."""
    for end in range(1, len(text) + 1):
        found = [string for string in strings if text[:end].endswith(string)]
        if found:
            longest = max(found, key=len)
            return text[: end - len(longest)], longest
    return text, None


@given(ab_texts, ab_strings, st.lists(st.integers(0, 30)))
def test_equals_the_definition_however_the_text_is_cut(
    text: str, strings: list[str], cuts: list[int]
) -> None:
    borders = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    chunks = [text[begin:end] for begin, end in pairwise(borders)]
    released, matched = feed(strings, chunks)
    assert ("".join(released), matched) == cut_by_definition(text, strings)


@given(ab_texts, ab_strings)
def test_holds_back_no_more_than_needed(text: str, strings: list[str]) -> None:
    stop = StopStrings(strings)
    seen = released = ""
    for char in text:
        seen += char
        result = stop.push(char)
        released += result.text
        if result.matched is not None:
            return
        prefixes = [string[:length] for string in strings for length in range(1, len(string))]
        longest = max((len(prefix) for prefix in prefixes if seen.endswith(prefix)), default=0)
        assert len(released) == len(seen) - longest


def test_across_chunk_borders() -> None:
    assert feed(["STOP"], ["abc S", "T", "OP def"]) == (["abc ", "", ""], "STOP")


def test_a_false_start_is_released() -> None:
    assert feed(["STOP"], ["ab ST", "AY"]) == (["ab ", "STAY", ""], None)


def test_a_held_start_is_released_at_the_end() -> None:
    assert feed(["STOP"], ["ab STO"]) == (["ab ", "STO"], None)


def test_the_one_that_ends_first_wins() -> None:
    assert feed(["abcd", "bc"], ["xabcd"]) == (["xa"], "bc")


def test_the_longest_of_two_that_end_together_wins() -> None:
    assert feed(["bc", "abc"], ["xabc"]) == (["x"], "abc")


def test_long_repetitive_strings_stay_linear() -> None:
    """50 000 characters against a 20 000-character string: the quadratic way takes minutes."""
    released, matched = feed(["a" * 20_000 + "b"], ["a" * 50_000])
    assert len("".join(released)) == 50_000
    assert matched is None
