"""Memory of the process beside tensors: what is free and still held, and what is looked through."""

import ctypes
import gc
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


def freeze_loaded() -> None:
    """Takes what lives now out of the garbage collector's sight; for a process that serves until it
    ends, once it has loaded everything.

    A full pass looks through every object, torch's and transformers' hundreds of thousands too, and
    stops all threads meanwhile: the engine's, and every stream.
    """
    gc.collect()
    gc.freeze()
