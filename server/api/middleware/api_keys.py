"""Which API keys are valid: given ones, and those of a file that is read again when it changes.

Knows no HTTP. Keys are kept as digests, never logged, and never part of an error.
"""

import hashlib
import hmac
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NewType

from server.errors import ConfigError

_logger = logging.getLogger(__name__)

KeyDigest = NewType("KeyDigest", bytes)
"""SHA-256 of a key: names its owner without being the key."""

_Stamp = tuple[int, int, int, int]


class ApiKeys:
    """The valid keys.

    Args:
        keys: Always valid.
        file: Holds more of them: one a line, `#` starts a comment.

    Raises:
        ConfigError: a key that no header can carry; a file that can't be read or has no key.
    """

    def __init__(self, keys: Sequence[str], file: Path | None = None) -> None:
        for key in keys:
            if not _is_key(key):
                raise ConfigError("api_key", "***", "a key is printable ASCII without spaces")
        self._given = tuple(_digest(key.encode()) for key in keys)
        self._file = file
        self._from_file: tuple[KeyDigest, ...] = ()
        self._stamp: _Stamp | None = None
        self._complaint: str | None = None
        """What was wrong with the file when it was last read; logged once, not per request."""
        if file is not None:
            try:
                self._read(file)
            except (OSError, ValueError) as error:
                raise ConfigError("api_key_file", str(file), _reason(error)) from None

    def find(self, key: bytes) -> KeyDigest | None:
        """The key's digest if it is valid, else None."""
        if self._file is not None:
            self._refresh(self._file)
        digest = _digest(key)
        found = None
        # All of them, each in constant time: the time taken says nothing about any key.
        for known in (*self._given, *self._from_file):
            if hmac.compare_digest(known, digest):
                found = known
        return found

    def read_again(self) -> None:
        """Reads the file even if it does not look changed: it may lie where time stamps can't be
        trusted."""
        self._stamp = None
        if self._file is not None:
            self._refresh(self._file)

    def _refresh(self, file: Path) -> None:
        """Reads the file again if it has changed. One `stat` per request costs microseconds; a
        thread that watches would cost more code."""
        try:
            if _stamp(file) != self._stamp:
                self._read(file)
                self._complaint = None
                _logger.info("%s: read %d API keys", file, len(self._from_file))
        except (OSError, ValueError) as error:
            reason = _reason(error)
            if reason != self._complaint:
                _logger.error("%s: %s; the last keys stay valid", file, reason)
            self._complaint = reason

    def _read(self, file: Path) -> None:
        """Reads the keys in the file.

        Raises:
            OSError: it can't be read; the next request tries again.
            ValueError: it makes no sense; that is looked at again when it changes.
        """
        stamp = _stamp(file)
        text = file.read_bytes()
        self._stamp = stamp  # taken before reading: a later change is a new stamp
        self._from_file = tuple(_digest(key.encode()) for key in parse_keys(text))


def parse_keys(text: bytes) -> list[str]:
    """The keys in a file's text.

    Raises:
        ValueError: a line that is no key, or not one key. An empty file too: that is how one looks
            whose writer is not done.
    """
    keys: list[str] = []
    for number, line in enumerate(text.decode("utf-8-sig").splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if not _is_key(words[0]) or (len(words) > 1 and not words[1].startswith("#")):
            raise ValueError(f"line {number} is not one key of printable ASCII without spaces")
        keys.append(words[0])
    if not keys:
        raise ValueError("has no key")
    return keys


def _is_key(text: str) -> bool:
    return bool(text) and all("!" <= char <= "~" for char in text)


def _digest(key: bytes) -> KeyDigest:
    return KeyDigest(hashlib.sha256(key).digest())


def _stamp(file: Path) -> _Stamp:
    """Changes with the content; with permissions too, after which reading may work again."""
    found = os.stat(file)
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return "is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
