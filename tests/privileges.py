"""What the system refuses to others is not refused to root, whom tests may be run by."""

import contextlib
import ctypes
import os
from collections.abc import Iterator

VERSION, THIS_THREAD = 0x20080522, 0  # of linux/capability.h
OVERRIDES = (1 << 1) | (1 << 2)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH: to pass over the permissions of files


@contextlib.contextmanager
def no_privileges() -> Iterator[None]:
    """The permissions of files hold for root too."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(VERSION, THIS_THREAD), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0, os.strerror(ctypes.get_errno())
    before = sets[0]  # the lower half of those in effect
    sets[0] = before & ~OVERRIDES
    assert libc.capset(header, sets) == 0, os.strerror(ctypes.get_errno())
    try:
        yield
    finally:
        sets[0] = before
        assert libc.capset(header, sets) == 0, os.strerror(ctypes.get_errno())
