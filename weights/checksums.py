"""Checksums of files: whether bytes that were written once are still the same.

CRC-32, piece by piece on all cores: it finds accidents, not forgers, and reading a checkpoint takes
longer than checking it.
"""

import os
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_PIECE = 2**24


def checksum(path: Path) -> str:
    """A file's checksum: its size, and a CRC over those of its pieces.

    Raises:
        OSError: it can't be read.
    """
    size = path.stat().st_size
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            pieces = range(0, size, _PIECE)
            found = pool.map(lambda start: zlib.crc32(os.pread(descriptor, _PIECE, start)), pieces)
            joined = b"".join(crc.to_bytes(4) for crc in found)
    finally:
        os.close(descriptor)
    return f"{size}-{zlib.crc32(joined):08x}"


def checksums(folder: Path) -> dict[str, str]:
    """The checksum of every file in a folder, by name.

    Raises:
        OSError: one can't be read.
    """
    return {file.name: checksum(file) for file in sorted(folder.iterdir())}


def first_damaged(folder: Path, expected: Mapping[str, str]) -> str | None:
    """Name of a file that is missing or has other bytes, or None. What is cheap to see is looked
    for first."""
    for name, stored in expected.items():
        path = folder / name
        if not path.is_file() or not stored.startswith(f"{path.stat().st_size}-"):
            return name
    return next((name for name in expected if checksum(folder / name) != expected[name]), None)
