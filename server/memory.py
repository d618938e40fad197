"""Memory that was freed but is still held by the process."""

import ctypes
import sys


def give_back_memory() -> None:
    """Returns freed memory to the system where the C library would keep it.

    After a text of 4 MB was encoded, glibc keeps half a gigabyte in its threads' arenas for good;
    after a model was loaded, hundreds of megabytes.
    """
    if sys.platform != "linux":
        return
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except AttributeError:
        return  # another C library
    trim(0)
