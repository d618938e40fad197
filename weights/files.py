"""Files that other processes may meet: held by one at a time, and replaced as a whole."""

import os
from pathlib import Path

from server.errors import CheckpointError


def write_whole(path: Path, text: str) -> None:
    """Replaces a file at once: neither a reader nor a kill meets half of it.

    Raises:
        CheckpointError: it can't be written.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        replace_durably(partial, path)
    except OSError as error:
        raise CheckpointError(path, f"can't be written: {error.strerror or error}") from None


def replace_durably(partial: Path, path: Path) -> None:
    """Gives a file that was written whole its name, once the disk has it: where the power fails,
    what has the name is the file of before or all of this one."""
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    partial.replace(path)


def open_locked(path: Path, flags: int) -> int:
    """Opens a file or folder for one process at a time. The descriptor holds the lock until it is
    closed, by a kill at the latest; where the system has no locks (Windows), it holds none.

    Args:
        flags: of `os.open`.

    Raises:
        BlockingIOError: another process holds it.
        OSError: it can't be opened, or its file system has no locks.
    """
    descriptor = os.open(path, flags, 0o644)
    try:
        import fcntl
    except ImportError:
        return descriptor
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
