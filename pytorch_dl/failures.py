"""What ended a command, whatever it was, as one line and an exit code."""

from typing import Any

import typer

from pytorch_dl.errors import ConfigError, Interrupted, ResourceError, UserError, is_out_of_memory
from pytorch_dl.files import DISK_FULL

USAGE_ERROR: Any = typer.BadParameter.__mro__[1]  # of click, which new releases of typer hold within them


def told(error: BaseException) -> tuple[str, int]:
    """The line and the exit code of what ended a command; of shown help, no line."""
    if isinstance(error, UserError):
        return str(error), error.exit_code
    if isinstance(error, USAGE_ERROR):
        line = error.format_message().rstrip(".")
        command = error.ctx.command_path if error.ctx else "pytorch-dl"
        return line and f"{line}{'' if line.endswith('?') else '.'} Fix: see `{command} --help`.", ConfigError.exit_code
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return "interrupted before anything had to be saved. Fix: run it again.", Interrupted.exit_code
    if is_out_of_memory(error):
        fix = "lower data.max_tokens_per_batch, or the size of the model"
        return f"out of memory. Fix: {fix}.", ResourceError.exit_code
    if isinstance(error, ImportError):
        return str(error), ConfigError.exit_code
    if isinstance(error, OSError) and error.errno:
        what = "no space left on the disk" if error.errno in DISK_FULL else error.strerror
        return f"{error.filename or 'input or output'}: {what}. Fix: mend it and run again.", ResourceError.exit_code
    return f"internal error, please report it: {type(error).__name__}: {error}. Fix: see it with --debug.", 1
