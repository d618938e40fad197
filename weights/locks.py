"""One process at a time, as long as a file or folder is held open."""

import os
from pathlib import Path


def open_locked(path: Path, flags: int) -> int:
    """A file descriptor that holds the lock until it is closed, by a kill at the latest; without
    a lock where the system has none (Windows).

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
