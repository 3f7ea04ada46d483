"""Faults of the file system, injected at each call in turn: the process is killed there."""

import builtins
import io
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

CALLS = ("open", "fsync", "replace", "rename", "mkdir", "unlink", "rmdir", "truncate")
KILLED = 9
Action = Callable[[], object]


class Call(NamedTuple):
    """A call that opens, syncs, cuts, moves or removes something: which one it is, from 1 on, and what it is given."""

    number: int
    name: str
    arguments: tuple[Any, ...]


@contextmanager
def announced(before: Callable[[Call], None]) -> Iterator[None]:
    """Run `before` ahead of each such call."""
    number = 0

    def announcing(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal number
            number += 1
            before(Call(number, name, args))
            return function(*args, **options)

        return call

    places = [*((os, name) for name in CALLS), (builtins, "open"), (io, "open")]
    originals = [getattr(module, name) for module, name in places]
    for (module, name), original in zip(places, originals, strict=True):
        setattr(module, name, announcing(name, original))
    try:
        yield
    finally:
        for (module, name), original in zip(places, originals, strict=True):
            setattr(module, name, original)


def killed_at(number: int, action: Action) -> bool:
    """Run the action in a child that dies before the call of this number; False when it ended before."""
    return killed_when(lambda call: call.number == number, action)


def killed_when(is_time: Callable[[Call], bool], action: Action) -> bool:
    """Run the action in a child that dies before the first call of which it is time; False when it ended before."""

    def look(call: Call) -> None:
        if is_time(call):
            os._exit(KILLED)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking beside threads; the child only writes files
        child = os.fork()
    if child == 0:
        code = 1
        try:
            with announced(look):
                action()
            code = 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, KILLED), f"the action failed with exit code {code}"
    return code == KILLED
