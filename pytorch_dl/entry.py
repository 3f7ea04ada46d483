"""Where a process of the command line begins and ends: signals, streams, and the exit code of whatever ends it."""

import os
import signal
import sys
import traceback
import warnings
from types import FrameType
from typing import TextIO

from pytorch_dl.cli import app
from pytorch_dl.errors import ConfigError, Interrupted
from pytorch_dl.failures import told
from pytorch_dl.process import fix_kernels
from pytorch_dl.training.signals import StopRequest
from pytorch_dl.training.stderr import Stderr
from pytorch_dl.training.tracking import is_any_at_work

IMPORTING = "<frozen importlib._bootstrap>"
SECONDS_OF_AN_IMPORT = 0.05  # until a signal that came in one comes again


def main() -> None:
    """Run the command line of this process, and end it with the exit code."""
    fix_kernels()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):  # nohup ignores SIGHUP
            signal.signal(number, _stop)
    warnings.showwarning = _warn
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors=stream.errors)  # type: ignore[union-attr]
    code = execute([word for word in sys.argv[1:] if word != "--debug"], debug="--debug" in sys.argv)
    _flush()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 or is_any_at_work():
        # Threads that torch keeps for the other processes abort Python's own ending now and then: code -6, all done.
        # And the library of a tracker that hangs waits there for what the tracker has waited for.
        Stderr().wait()
        os._exit(code)
    raise SystemExit(code)


class _Stopped(KeyboardInterrupt):
    """A signal. Where a KeyboardInterrupt itself ends text that some library runs, Python kills itself at its end."""


def _stop(number: int, frame: FrameType | None) -> None:
    """End whatever goes on, but an import: libraries swallow what comes there, and then lack a half of themselves."""
    if _is_importing(frame):
        signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(number))
        signal.setitimer(signal.ITIMER_REAL, SECONDS_OF_AN_IMPORT)
    elif not StopRequest.is_repeated():  # a second one would end what the first has begun to end
        raise _Stopped


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None and frame.f_code.co_filename != IMPORTING:
        frame = frame.f_back
    return frame is not None


def execute(arguments: list[str], *, debug: bool = False) -> int:
    """Run a command line, and turn whatever ends it into an exit code and, for errors, one line on stderr."""
    try:
        _refuse_other_encodings(arguments)
        code = int(app(arguments, standalone_mode=False, prog_name="pytorch-dl") or 0)
        if code == 128 + signal.SIGINT:  # what typer makes of Ctrl-C
            raise KeyboardInterrupt
        return code
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):  # the reader has enough, as in `| head`; typer makes it 1
            return 0
        raise
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exc()
        line, exit_code = told(error)
        if line:
            kind = "" if isinstance(error, Interrupted | KeyboardInterrupt) else "error: "
            Stderr().write(f"pytorch-dl: {kind}{' '.join(line.split())}\n")
        return exit_code


def _warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Show a warning without waiting for a reader that hangs; above the live line, where there is one."""
    stream = Stderr() if sys.stderr is sys.__stderr__ else sys.stderr
    (file or stream).write(warnings.formatwarning(message, category, filename, lineno, line))


def _refuse_other_encodings(arguments: list[str]) -> None:
    for word in arguments:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise ConfigError(f"the argument {os.fsencode(word)!r} is not UTF-8", fix="give it in UTF-8") from None


def _flush() -> None:
    """Write out what is left to print; to a reader that has gone, nothing."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
