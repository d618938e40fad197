"""Rounds on disk: what is read back is what was measured."""

from pathlib import Path

import pytest

from bench.paper.results.journal import Journal, round_key
from bench.paper.results.records import from_record, to_record
from server.errors import CheckpointError
from tests.bench.paper.made import chain, plain, result

ROUND = result("a", plain=plain(10, 9.1), chain=chain([3, 0, 3], 0.1 + 0.2, 1 / 3))
KEY = round_key("gsm8k", "a", (1, 2, 3))


def test_a_record_gives_the_round_back() -> None:
    assert from_record(to_record(ROUND)) == ROUND


def test_what_was_added_is_read_back(tmp_path: Path) -> None:
    """While the first is still open: a killed process closes nothing."""
    first = Journal(tmp_path / "j")
    assert first.identity is None
    first.begin({"draft": "x"}, "monday")
    first.add(KEY, ROUND)
    second = Journal(tmp_path / "j")
    assert second.identity == {"draft": "x"}
    assert second.rounds == {KEY: ROUND}
    second.begin({"draft": "x"}, "tuesday")
    second.close()
    first.close()
    third = Journal(tmp_path / "j")
    assert third.started == ["monday", "tuesday"]
    third.close()


def test_the_same_id_with_another_text_is_another_prompt() -> None:
    assert round_key("gsm8k", "a", (1, 23)) != round_key("gsm8k", "a", (12, 3))


def test_what_is_no_journal_is_named(tmp_path: Path) -> None:
    for line in ('{"round": {}}', '{"x": 1}', '{"identity": 3}'):
        (tmp_path / "j").write_text(f'{{"identity": {{}}}}\n{line}\n')
        with pytest.raises(CheckpointError, match=r"j: line 2: is no round"):
            Journal(tmp_path / "j")
