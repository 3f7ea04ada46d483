"""Calls to the file system: how many an action makes, and one of them, or all from it on, failing."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from pytorch_dl.doctor.faults import Action, Call, announced


def number_of_calls(action: Action) -> int:
    calls: list[Call] = []
    with announced(calls.append):
        action()
    return len(calls)


@contextmanager
def failing_at(number: int, error: int, *, and_after: bool = False) -> Iterator[None]:
    """Let the call of this number, and perhaps all later ones, fail with a system error."""

    def fail(call: Call) -> None:
        if call.number == number or (and_after and call.number > number):
            raise OSError(error, os.strerror(error))

    with announced(fail):
        yield
