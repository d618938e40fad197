"""Keys from a file: read again when it changes, and the last good ones kept when it is broken."""

import hmac
import logging
import os
from pathlib import Path

import pytest

from server.api.middleware import api_keys
from server.api.middleware.api_keys import ApiKeys, parse_keys
from server.errors import ConfigError


def write(file: Path, text: str | bytes, second: int) -> None:
    """With a time of its own, because file systems' clocks are coarse."""
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    os.utime(file, (second, second))


def test_given_keys() -> None:
    keys = ApiKeys(["one", "two"])
    assert keys.find(b"one") != keys.find(b"two")
    assert keys.find(b"two") is not None
    for wrong in (b"", b"on", b"one ", b"ONE", b"onetwo", b"one\xff"):
        assert keys.find(wrong) is None


def test_every_key_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after the right one, and always over digests of the same length."""
    lengths: list[tuple[int, int]] = []

    def spy(known: bytes, given: bytes) -> bool:
        lengths.append((len(known), len(given)))
        return original(known, given)

    original = hmac.compare_digest
    monkeypatch.setattr(api_keys.hmac, "compare_digest", spy)
    keys = ApiKeys(["a", "long" * 50, "c"])
    for given in (b"a", b"nothing"):
        lengths.clear()
        keys.find(given)
        assert lengths == [(32, 32)] * 3


def test_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    write(file, "old\n", 1)
    keys = ApiKeys(["given"], file)
    assert keys.find(b"old") is not None
    write(file, "new\n", 2)
    assert keys.find(b"old") is None
    assert keys.find(b"new") is not None
    assert keys.find(b"given") is not None


def test_a_file_is_not_read_again_while_it_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys"
    write(file, "key\n", 1)
    keys = ApiKeys([], file)

    def fail(_: bytes) -> list[str]:
        raise AssertionError("read again")

    monkeypatch.setattr(api_keys, "parse_keys", fail)
    assert keys.find(b"key") is not None


def test_a_file_that_is_replaced_by_one_of_the_same_time_and_size(tmp_path: Path) -> None:
    file, other = tmp_path / "keys", tmp_path / "other"
    write(file, "old\n", 1)
    keys = ApiKeys([], file)
    write(other, "new\n", 1)
    other.replace(file)
    assert keys.find(b"new") is not None


@pytest.mark.parametrize("broken", [b"", b"# nothing\n", b"two keys\n", b"\xff\xfe\n", "schlüssel"])
def test_a_broken_file_keeps_the_last_keys(
    tmp_path: Path, broken: str | bytes, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "keys"
    write(file, "secret\n", 1)
    keys = ApiKeys([], file)
    write(file, broken, 2)
    for _ in range(3):
        assert keys.find(b"secret") is not None
    (record,) = caplog.records  # once, not per request
    assert str(file) in record.getMessage()
    assert "secret" not in caplog.text
    write(file, "mended\n", 3)
    assert keys.find(b"secret") is None
    assert keys.find(b"mended") is not None


def test_a_removed_file_keeps_the_last_keys(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "keys"
    write(file, "key\n", 1)
    keys = ApiKeys([], file)
    file.unlink()
    with caplog.at_level(logging.ERROR):
        assert keys.find(b"key") is not None
        assert keys.find(b"other") is None
    (record,) = caplog.records
    assert "No such file" in record.getMessage()
    write(file, "other\n", 2)
    assert keys.find(b"key") is None
    assert keys.find(b"other") is not None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"a\nb", ["a", "b"]),
        (b"\n  a  \r\n# comment\n\tb # Berta's\n", ["a", "b"]),
        (b"\xef\xbb\xbfa\n", ["a"]),
        (b"sk-a#b\n", ["sk-a#b"]),
    ],
)
def test_lines(text: bytes, expected: list[str]) -> None:
    assert parse_keys(text) == expected


@pytest.mark.parametrize("text", [b"", b"#a\n", b"a b\n", "ä\n".encode(), b"a\x01\n", b"\xff"])
def test_bad_lines(text: bytes) -> None:
    with pytest.raises(ValueError):
        parse_keys(text)


def test_what_is_wrong_at_the_start_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    with pytest.raises(ConfigError, match=f"api_key_file='{missing}': No such file"):
        ApiKeys([], missing)
    with pytest.raises(ConfigError, match=r"api_key_file=.*: Is a directory"):
        ApiKeys([], tmp_path)
    (tmp_path / "bad").write_text("good\nnot so\n")
    with pytest.raises(ConfigError, match=r"line 2 is not one key"):
        ApiKeys([], tmp_path / "bad")
    with pytest.raises(ConfigError, match="api_key") as caught:
        ApiKeys(["with space"])
    assert "with space" not in str(caught.value)
