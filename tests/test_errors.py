"""Errors of users: one line, and one exit code for each kind."""

import pytest

from pytorch_dl import errors
from pytorch_dl.errors import UserError, visible

CODES = {
    "ConfigError": 2,
    "DataError": 3,
    "CheckpointError": 4,
    "NonFiniteError": 5,
    "ResourceError": 6,
    "PeerLostError": 7,
    "Interrupted": 75,
}


def test_exit_codes() -> None:
    kinds = {k.__name__: k.exit_code for k in vars(errors).values() if isinstance(k, type) and k.__base__ is UserError}
    assert kinds == CODES
    assert UserError.exit_code == 1
    assert issubclass(UserError, ValueError)


@pytest.mark.parametrize(
    ("what", "where", "fix", "line"),
    [
        ("it broke", None, None, "it broke"),
        ("it broke.", "a.txt:3", None, "a.txt:3: it broke."),
        ("it broke", "a.txt:3", "mend it", "a.txt:3: it broke. Fix: mend it."),
        ("it broke.", None, "mend it.", "it broke. Fix: mend it."),
        ("it\nbroke  twice", "a b", "mend\r\nit", "a b: it broke twice. Fix: mend it."),
        ("no", "", "", "no"),
        ("not '\x1b[2J\u202egnp'", "a\x07", "mend\x9b", r"a\x07: not '\x1b[2J\u202egnp'. Fix: mend\x9b."),
    ],
)
def test_the_line(what: str, where: str | None, fix: str | None, line: str) -> None:
    error = UserError(what, where=where, fix=fix)
    assert str(error) == line
    assert (error.what, error.where, error.fix) == (visible(what), where, fix)
