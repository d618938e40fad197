"""Memory that was freed and is still the process's."""

import ctypes
import sys


def give_back_memory() -> None:
    """Returns it to the system where the C library keeps it: after a text of 4 MB was encoded,
    glibc's keeps half a gigabyte in its threads' arenas for good."""
    if sys.platform != "linux":
        return
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except AttributeError:
        return  # another C library
    trim(0)
