"""What is scored, and how it is cut."""

import gzip
import json
from pathlib import Path

import pytest

from bench.perplexity import cut, read_text
from server.errors import CheckpointError, ConfigError


def test_windows_are_equal_but_for_the_last() -> None:
    assert cut(iter(range(100)), tokens=8, window=3) == [[0, 1, 2], [3, 4, 5], [6, 7]]
    assert cut(iter(range(7)), tokens=100, window=3) == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(ConfigError, match="fewer than two"):
        cut(iter([1]), tokens=8, window=3)


def test_plain_text_is_one_piece(tmp_path: Path) -> None:
    plain, packed = tmp_path / "a.txt", tmp_path / "a.txt.gz"
    plain.write_text("ö\nb")
    packed.write_bytes(gzip.compress("ö\nb".encode()))
    assert list(read_text(plain)) == list(read_text(packed)) == ["ö\nb"]


def test_json_lines_give_tokens_or_answers(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    chat = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    lines = [{"response_ids": [3, 4]}, {"messages": chat}]
    file.write_text("\n".join(map(json.dumps, lines)))
    assert list(read_text(file)) == [[3, 4], "a"]


def test_what_holds_no_text_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"response_ids": [1]}\n{"prompt": "x"}\n')
    with pytest.raises(CheckpointError, match=r"a\.jsonl: line 2: has neither"):
        list(read_text(file))
    (tmp_path / "b.txt").write_bytes(b"\xff")
    with pytest.raises(CheckpointError, match=r"b\.txt"):
        list(read_text(tmp_path / "b.txt"))
    with pytest.raises(CheckpointError, match=r"none\.txt"):
        list(read_text(tmp_path / "none.txt"))
