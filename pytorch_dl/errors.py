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

from typing import ClassVar


class UserError(ValueError):
    """An error that the user can mend, told in one line: `where: what. Fix: fix.`"""

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        self.what, self.where, self.fix = what, where, fix
        line = f"{where}: {what}" if where else what
        if fix:
            line = f"{line.rstrip('.')}{'' if line.endswith('?') else '.'} Fix: {fix.rstrip('.')}."
        super().__init__(" ".join(line.split()))


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
