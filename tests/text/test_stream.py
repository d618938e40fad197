from hypothesis import given
from hypothesis import strategies as st

from server.text.stream import TextDelta, TextStream
from tests.doubles import EOS_ID, byte_tokenizer, ids

TOKENIZER = byte_tokenizer()


def stream(stop: list[str] | None = None, min_tokens: int = 0) -> TextStream[int]:
    return TextStream(TOKENIZER, stop=stop or [], min_tokens=min_tokens)


def push_each(text_stream: TextStream[int], text: str, *, ended: bool = False) -> list[str]:
    """Pushes a text byte by byte → the deltas."""
    token_ids = ids(text)
    last = len(token_ids) - 1
    return [
        text_stream.push([token_id], ended=ended and index == last).text
        for index, token_id in enumerate(token_ids)
    ]


def offsets(delta: TextDelta[int]) -> list[tuple[int, int]]:
    return [(placed.logprobs, placed.text_offset) for placed in delta.logprobs]


def test_text_passes_through_as_it_completes() -> None:
    assert push_each(stream(), "aé") == ["a", "", "é"]


def test_stop_string_over_several_pushes() -> None:
    text_stream = stream(["END"])
    assert push_each(text_stream, "abEN") == ["a", "b", "", ""]
    delta = text_stream.push(ids("D"))
    assert (delta.text, delta.stop_string) == ("", "END")


def test_stop_string_inside_one_push_drops_the_rest() -> None:
    text_stream = stream(["END"])
    delta = text_stream.push(ids("abENDcd"))
    assert (delta.text, delta.stop_string) == ("ab", "END")
    assert text_stream.num_tokens == len("abEND")


def test_end_releases_what_was_held_back() -> None:
    assert push_each(stream(["END"]), "abEN", ended=True) == ["a", "b", "", "EN"]


def test_stop_token_is_counted_but_not_shown() -> None:
    text_stream = stream(["END"])
    # An ordinary token can end a request too (stop_token_ids).
    delta = text_stream.push(ids("EN!"), ended=True, has_stop_token=True)
    assert delta.text == "EN"
    assert text_stream.num_tokens == 3


def test_an_end_without_tokens_releases_too() -> None:
    text_stream = stream(["END"])
    text_stream.push(ids("aE"))
    assert text_stream.push([], ended=True).text == "E"


def test_min_tokens_hides_early_stop_strings() -> None:
    text_stream = stream(["ab"], min_tokens=2)
    assert push_each(text_stream, "abca") == ["a", "b", "c", ""]
    assert text_stream.push(ids("b")).stop_string == "ab"


def test_min_tokens_hides_a_stop_string_that_ends_with_the_last_of_them() -> None:
    delta = stream(["b"], min_tokens=2).push(ids("abab"))
    assert (delta.text, delta.stop_string) == ("aba", "b")


def test_min_tokens_counts_within_one_push() -> None:
    delta = stream(["ab"], min_tokens=3).push(ids("abcab"))
    assert (delta.text, delta.stop_string) == ("abc", "ab")


def test_incomplete_character_at_the_end_is_dropped() -> None:
    delta = stream().push(ids("a🙂")[:-1], ended=True)
    assert delta.text == "a"


def test_logprobs_wait_for_their_text() -> None:
    text_stream = stream(["END"])
    first = text_stream.push(ids("aE"), [0, 1])
    assert (first.text, offsets(first)) == ("a", [(0, 0)])
    second = text_stream.push(ids("x"), [2])
    assert (second.text, offsets(second)) == ("Ex", [(1, 1), (2, 2)])


def test_logprobs_of_a_split_character_come_with_it() -> None:
    text_stream = stream()
    first, last = ids("é")
    assert offsets(text_stream.push([first], [0])) == []
    assert offsets(text_stream.push([last], [1])) == [(0, 0), (1, 0)]


def test_logprobs_of_a_dropped_character_come_at_the_end() -> None:
    delta = stream().push(ids("aé")[:2], [0, 1], ended=True)
    assert (delta.text, offsets(delta)) == ("a", [(0, 0), (1, 1)])


def test_logprobs_of_a_stop_string_and_of_a_stop_token_are_not_shown() -> None:
    cut = stream(["END"]).push(ids("abEND"), [0, 1, 2, 3, 4])
    assert offsets(cut) == [(0, 0), (1, 1)]
    ended = stream().push([*ids("a"), EOS_ID], [0, 1], ended=True, has_stop_token=True)
    assert offsets(ended) == [(0, 0)]


@given(
    st.text("aE你🙂", max_size=12),
    st.lists(st.integers(1, 5), min_size=60, max_size=60),
    st.sampled_from([[], ["aE"], ["E你E", "🙂"]]),
)
def test_any_split_into_steps_gives_the_same(
    text: str, step_sizes: list[int], stop: list[str]
) -> None:
    """Speculation commits several tokens a step: text, logprobs and counts must not change."""
    token_ids = ids(text)
    whole = stream(stop)
    expected = whole.push(token_ids, token_ids, ended=True)
    split = stream(stop)
    deltas: list[TextDelta[int]] = []
    begin = 0
    for size in step_sizes:
        step = token_ids[begin : begin + size]
        begin += size
        deltas.append(split.push(step, step, ended=begin >= len(token_ids)))
        if begin >= len(token_ids) or deltas[-1].stop_string is not None:
            break
    assert "".join(delta.text for delta in deltas) == expected.text
    assert deltas[-1].stop_string == expected.stop_string
    assert [entry for delta in deltas for entry in delta.logprobs] == list(expected.logprobs)
    assert split.num_tokens == whole.num_tokens


@given(st.text("ab你🙂", max_size=20), st.sampled_from([[], ["ab"], ["你b"]]))
def test_logprobs_never_run_ahead_of_the_text(text: str, stop: list[str]) -> None:
    """At each moment the bytes of the released tokens are the released text."""
    text_stream = stream(stop)
    shown, tokens = "", b""
    for token_id in ids(text):
        delta = text_stream.push([token_id], [token_id])
        shown += delta.text
        tokens += b"".join(TOKENIZER.token_bytes(entry.logprobs) for entry in delta.logprobs)
        assert tokens == shown.encode()
        if delta.stop_string is not None:
            return
