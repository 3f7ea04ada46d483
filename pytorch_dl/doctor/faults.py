"""Faults of the file system, injected at each call in turn: the process is killed there, or the call fails."""

import builtins
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

CALLS = ("open", "fsync", "replace", "rename", "mkdir", "unlink", "rmdir")
KILLED = 9
Action = Callable[[], object]


@contextmanager
def counted(on_call: Callable[[int], None]) -> Iterator[None]:
    """Run `on_call` with the number 1, 2, ... before each call that opens, syncs, moves or removes something."""
    number = 0

    def announced(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal number
            number += 1
            on_call(number)
            return function(*args, **options)

        return call

    places = [*((os, name) for name in CALLS), (builtins, "open")]
    originals = [getattr(module, name) for module, name in places]
    for (module, name), original in zip(places, originals, strict=True):
        setattr(module, name, announced(original))
    try:
        yield
    finally:
        for (module, name), original in zip(places, originals, strict=True):
            setattr(module, name, original)


def number_of_calls(action: Action) -> int:
    numbers = [0]
    with counted(numbers.append):
        action()
    return numbers[-1]


def killed_at(number: int, action: Action) -> bool:
    """Run the action in a child that dies before the call of this number; False when it ended before."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking beside threads; the child only writes files
        child = os.fork()
    if child == 0:
        code = 1
        try:
            with counted(lambda n: os._exit(KILLED) if n == number else None):
                action()
            code = 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, KILLED), f"the action failed with exit code {code}"
    return code == KILLED


@contextmanager
def failing_at(number: int, error: int, *, and_after: bool = False) -> Iterator[None]:
    """Let the call of this number, and perhaps all later ones, fail with a system error."""

    def fail(n: int) -> None:
        if n == number or (and_after and n > number):
            raise OSError(error, os.strerror(error))

    with counted(fail):
        yield
