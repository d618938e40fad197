"""Converted models on disk: each GGUF file is converted once per dtype.

A folder under its final name is complete: it is made under another name and renamed. A lock makes
a second process wait for the first one's result instead of doing the work again. Checksums tell
whether the files are still what was written. They find accidents, not forgers: CRC-32, piece by
piece on all cores, takes less time than reading a checkpoint does.
"""

import fcntl
import hashlib
import json
import os
import shutil
import time
import zlib
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from server.errors import CheckpointError
from server.report import Report
from weights.blocks import BLOCKS_FILE
from weights.checkpoint import SINGLE_FILE
from weights.gguf.convert import convert_gguf
from weights.gguf.parts import gguf_name, gguf_parts

CONVERTER_VERSION = 6
"""Part of the key: raise it when the same file would be converted differently."""

MARKER = "complete.json"
"""Checksums of a finished conversion's files, by name."""

_GROWTH = 1.5
"""From which on it is said that a model takes more memory than its file is large."""

_PIECE_BYTES = 2**24
"""Bytes of a file that one thread checks at a time."""


def converted_gguf(
    path: Path, cache_dir: Path, dtype: torch.dtype, report: Report, in_floats: bool = False
) -> Path:
    """Folder with the converted model, made now if it is not there yet.

    Args:
        path: The GGUF file, or any part of one in several.
        cache_dir: Folders are made under its `models/`.
        dtype: Of the weights that become floats.
        report: Gets lines for a person.
        in_floats: All weights become floats, for readers that know no blocks.

    Raises:
        CheckpointError: the file can't be read, or the cache not be written.
        UnsupportedModelError: the file asks for something that is not implemented.
    """
    folder = cache_dir / "models" / _folder_name(path, dtype, in_floats)
    if not is_complete(folder, report):
        _make(path, folder, dtype, in_floats, report)
    _say_growth(path, folder, dtype, report)
    return folder


def _make(path: Path, folder: Path, dtype: torch.dtype, in_floats: bool, report: Report) -> None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.parent / ".lock", report):
            if not is_complete(
                folder, lambda line: None
            ):  # else another process made it while this one waited
                _convert(path, folder, dtype, in_floats, report)
    except OSError as error:
        raise CheckpointError(folder, f"can't be written: {error.strerror or error}") from None


def _say_growth(path: Path, folder: Path, dtype: torch.dtype, report: Report) -> None:
    """Says at every start where a file's blocks have become floats throughout, for their memory is
    what reading a smaller file was to save."""
    stored = sum(part.stat().st_size for part in gguf_parts(path))
    loaded = (folder / SINGLE_FILE).stat().st_size
    if loaded > _GROWTH * stored and not (folder / BLOCKS_FILE).exists():
        name, sizes = gguf_name(path), f"{loaded / 1e6:,.0f} MB instead of {stored / 1e6:,.0f}"
        report(f"the weights of {name} become {_dtype_name(dtype)}: {sizes} in the file")


def is_complete(folder: Path, report: Report) -> bool:
    """Whether every file is there with the bytes it had when the conversion ended. Damaged ones
    could be anything to those who read them: wrong weights, or an index beyond the memory's end."""
    if not folder.exists():
        return False
    damaged = _damaged(folder)
    if damaged is not None:
        report(f"{folder / damaged} is damaged: the model is converted anew")
    return damaged is None


def _damaged(folder: Path) -> str | None:
    try:
        marker: Any = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        listed = {str(name): str(found) for name, found in marker.items()}
        return _first_damaged(folder, listed) if listed else MARKER
    except (OSError, ValueError, AttributeError, RecursionError):
        return MARKER


def _convert(path: Path, folder: Path, dtype: torch.dtype, in_floats: bool, report: Report) -> None:
    parts = gguf_parts(path)
    megabytes = sum(part.stat().st_size for part in parts) / 1e6
    files = "" if len(parts) == 1 else f" and the other {len(parts) - 1} of its parts"
    report(f"converting {parts[0].name}{files} ({megabytes:.0f} MB) to {_dtype_name(dtype)}, once")
    started = time.monotonic()
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    shutil.rmtree(folder, ignore_errors=True)  # it is not complete, or this would not run
    partial.mkdir()
    try:
        convert_gguf(path, partial, dtype, in_floats)
        (partial / MARKER).write_text(json.dumps(_checksums(partial)), encoding="utf-8")
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    report(f"converted in {time.monotonic() - started:.1f} s, kept in {folder}")


@contextmanager
def _locked(path: Path, report: Report) -> Generator[None]:
    """Holds the lock file; the system releases it if the process is killed."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("waiting for another process that is converting a model")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _folder_name(path: Path, dtype: torch.dtype, in_floats: bool) -> str:
    """`<name>-<dtype>-<key>`; the key changes when a file or the converter does."""
    try:
        found = [part.stat() for part in gguf_parts(path)]
    except OSError as error:
        raise CheckpointError(path, error.strerror or str(error)) from None
    files = "|".join(f"{status.st_size}-{status.st_mtime_ns}" for status in found)
    key = hashlib.sha256(f"{files}-{CONVERTER_VERSION}".encode()).hexdigest()[:12]
    form = f"{_dtype_name(dtype)}-floats" if in_floats else _dtype_name(dtype)
    return f"{gguf_name(path)}-{form}-{key}"


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _checksum(path: Path) -> str:
    """A file's checksum: its size, and a CRC over those of its pieces.

    Raises:
        OSError: it can't be read.
    """
    size = path.stat().st_size
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            pieces = range(0, size, _PIECE_BYTES)
            found = pool.map(
                lambda start: zlib.crc32(os.pread(descriptor, _PIECE_BYTES, start)), pieces
            )
            joined = b"".join(crc.to_bytes(4) for crc in found)
    finally:
        os.close(descriptor)
    return f"{size}-{zlib.crc32(joined):08x}"


def _checksums(folder: Path) -> dict[str, str]:
    """The checksum of every file in a folder, by name.

    Raises:
        OSError: one can't be read.
    """
    return {file.name: _checksum(file) for file in sorted(folder.iterdir())}


def _first_damaged(folder: Path, expected: Mapping[str, str]) -> str | None:
    """Name of a file that is missing or has other bytes, or None. What is cheap to see is looked
    for first."""
    for name, stored in expected.items():
        path = folder / name
        if not path.is_file() or not stored.startswith(f"{path.stat().st_size}-"):
            return name
    return next((name for name in expected if _checksum(folder / name) != expected[name]), None)
