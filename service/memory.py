"""Memory that is not needed any more goes back to the system from time to time: a long life is to need no more of it.

The C library keeps what was freed, scattered over its heap, and takes more where the holes do not fit; and Python's
collector comes to its oldest generation only once in tens of thousands of requests. Neither loses anything, but both
make a process grow for hours. All that there was when the server began to serve is frozen (`service.server.serve`), so
that a whole collection looks at a few thousand objects.
"""

import ctypes
import gc
from collections.abc import Callable

INTERVAL = 10.0  # seconds


def _trimmer() -> Callable[[int], object]:
    """Glibc's malloc_trim(3); nothing, where the C library is another one."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return lambda _: None
    trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int
    return trim


_trim = _trimmer()


def give_back() -> None:
    """Collect what only the collector finds, and return free pages of the heap; a millisecond or two."""
    gc.collect()
    _trim(0)
