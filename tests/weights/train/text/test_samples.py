"""Reading training text."""

import gzip
import json
from pathlib import Path

import pytest

from server.errors import CheckpointError, ConfigError
from weights.train.fit.vocabulary import draft_vocabulary
from weights.train.text.samples import Sample, read_samples


def prompt_ids(text: str) -> list[int]:
    return [90, *map(ord, text), 91]


def read(path: Path, *lines: object, max_tokens: int = 50) -> list[Sample]:
    text = "".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines)
    path.write_text(text, encoding="utf-8")
    return read_samples([path], prompt_ids, 128, max_tokens)


def shown(samples: list[Sample]) -> list[tuple[list[int], int]]:
    return [(sample.token_ids.tolist(), sample.first_loss) for sample in samples]


def test_all_forms(tmp_path: Path) -> None:
    found = read(
        tmp_path / "text.jsonl",
        {"prompt_ids": [1, 2, 3], "response_ids": [4, 5], "source": "other keys are ignored"},
        {"prompt": "ab", "response_ids": [6, 7]},
        "",
        {"text_ids": [1, 2, 3, 4]},
    )
    # The first learnt position is the prompt's last one: it says the response's first token.
    assert shown(found) == [([1, 2, 3, 4, 5], 2), ([90, 97, 98, 91, 6, 7], 3), ([1, 2, 3, 4], 1)]
    assert [sample.num_labels for sample in found] == [2, 2, 2]


def test_gzip(tmp_path: Path) -> None:
    path = tmp_path / "text.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write('{"text_ids": [5, 6, 7]}\n')
    assert shown(read_samples([path], prompt_ids, 128, 50)) == [([5, 6, 7], 1)]


def test_long_ones_are_cut(tmp_path: Path) -> None:
    found = read(
        tmp_path / "text.jsonl",
        {"prompt_ids": [1, 2], "response_ids": [3, 4, 5, 6]},
        {"prompt_ids": [1, 2, 3, 4, 5], "response_ids": [6]},
        {"text_ids": [1, 2, 3, 4, 5, 6, 7, 8, 9]},
        max_tokens=4,
    )
    assert shown(found) == [([1, 2, 3, 4], 1), ([1, 2, 3, 4], 1), ([5, 6, 7, 8], 1)]


def test_the_first_position_is_never_learnt(tmp_path: Path) -> None:
    """A draft step needs a verified token before its own."""
    found = read(tmp_path / "text.jsonl", {"prompt_ids": [1], "response_ids": [2, 3]})
    assert shown(found) == [([1, 2, 3], 1)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "broken JSON"),
        ([1], "expected an object, found list"),
        ({"prompt": "a"}, "has neither 'response_ids' nor 'text_ids'"),
        ({"response_ids": [1]}, "has neither 'prompt_ids' nor a text 'prompt'"),
        ({"text_ids": "abc"}, "'text_ids' must be a list"),
        ({"text_ids": [1, 2.5]}, "'text_ids' must be a list"),
        ({"text_ids": [1, True]}, "'text_ids' must be a list"),
        ({"text_ids": [1, 128]}, "'text_ids' has id 128, the target knows 128"),
        ({"prompt_ids": [-1], "response_ids": [1]}, "'prompt_ids' has id -1"),
        ({"prompt": "a", "response_ids": [10**30]}, "'response_ids' has id 10"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: object, reason: str) -> None:
    with pytest.raises(CheckpointError, match=rf"text\.jsonl: line 3: {reason}"):
        read(tmp_path / "text.jsonl", {"text_ids": [1, 2, 3]}, "", line)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file"):
        read_samples([tmp_path / "absent.jsonl"], prompt_ids, 128, 50)
    (tmp_path / "bytes.jsonl").write_bytes(b'{"text_ids": [1, 2, 3]}\n\xff\xff')
    with pytest.raises(CheckpointError, match="codec can't decode"):
        read_samples([tmp_path / "bytes.jsonl"], prompt_ids, 128, 50)
    whole = gzip.compress(b'{"text_ids": [1, 2, 3]}\n' * 100)
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[:-12])
    with pytest.raises(CheckpointError, match=r"cut\.jsonl\.gz: after line"):
        read_samples([tmp_path / "cut.jsonl.gz"], prompt_ids, 128, 50)


def test_nothing_to_learn(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no text to learn from"):
        read(tmp_path / "text.jsonl", {"prompt_ids": [1, 2], "response_ids": []})


def test_held_out_samples_are_two_percent_and_answers_of_a_prompt_stay_together(
    tmp_path: Path,
) -> None:
    lines = [
        {"prompt_ids": [i % 100, i // 100], "response_ids": [answer, 5]}
        for i in range(4000)
        for answer in (7, 7)
    ]
    found = read(tmp_path / "text.jsonl", *lines)
    assert 110 < sum(sample.held_out for sample in found) < 210
    for one, other in zip(found[::2], found[1::2], strict=True):
        assert one.held_out == other.held_out


def test_vocabulary_is_the_most_frequent_learnt_tokens(tmp_path: Path) -> None:
    samples = read(
        tmp_path / "text.jsonl",
        {"prompt_ids": [50, 50, 50, 50], "response_ids": [9, 9, 9, 8, 8, 30]},
        {"prompt_ids": [50], "response_ids": [50, 8]},
    )
    assert draft_vocabulary(samples, 3, 128, {100}).tolist() == [8, 9, 100]
    # Once each: 30 and, as the first position is not learnt, of 50 nothing. The rest by id.
    assert draft_vocabulary(samples, 6, 128, {100}).tolist() == [0, 1, 8, 9, 30, 100]
    assert len(draft_vocabulary(samples, 8192, 128, {100})) == 128


def test_a_vocabulary_without_room_for_the_ends_of_turns(tmp_path: Path) -> None:
    samples = read(tmp_path / "text.jsonl", {"text_ids": [1, 2, 3]})
    with pytest.raises(ConfigError, match="draft_vocab_size=1: the 2 tokens"):
        draft_vocabulary(samples, 1, 128, {100, 101})


def test_plain_text_is_held_out_by_all_of_it(tmp_path: Path) -> None:
    """Texts that begin alike, as after a BOS, are not all held out or all learnt."""
    lines = [{"text_ids": [1, 2, i % 100, i // 100]} for i in range(4000)]
    found = read(tmp_path / "text.jsonl", *lines)
    assert 40 < sum(sample.held_out for sample in found) < 120
