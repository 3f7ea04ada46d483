"""What can go wrong by a user's doing, and the exit code that each kind ends the program with.

UserError               ValueError: what went wrong, where, and how to mend it
+-- ConfigError         2  configuration or usage
+-- DataError           3  text files or token store
+-- CheckpointError     4  checkpoint or tokenizer
+-- NonFiniteError      5  loss or gradient is not a number
+-- ResourceError       6  disk, memory, a run folder in use
+-- PeerLostError       7  another process of the run is gone
+-- Interrupted        75  stopped by a signal, saved; run again to go on
"""

import re
from typing import ClassVar

_CONTROLS = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    """A text whose control characters, but for white space, are written out: a terminal would obey them."""
    return _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


class UserError(ValueError):
    """An error that the user can mend, told in one line: `where: what. Fix: fix.`"""

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        self.what, self.where, self.fix = visible(what), where, fix
        line = f"{where}: {what}" if where else what
        if fix:
            line = f"{line.rstrip('.')}{'' if line.endswith('?') else '.'} Fix: {fix.rstrip('.')}."
        super().__init__(visible(" ".join(line.split())))


class ConfigError(UserError):
    exit_code = 2


class DataError(UserError):
    exit_code = 3


class CheckpointError(UserError):
    exit_code = 4


class NonFiniteError(UserError):
    exit_code = 5


class ResourceError(UserError):
    exit_code = 6


class PeerLostError(UserError):
    exit_code = 7


class Interrupted(UserError):
    exit_code = 75


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was refused, of the host or a GPU; torch has several errors for it."""
    told = str(error)
    return isinstance(error, MemoryError) or "allocate memory" in told or "out of memory" in told or "bad_alloc" in told
