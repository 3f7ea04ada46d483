"""How the processes of a training find each other in a store, where torchrun has perhaps started them again.

Its store outlives them, and still holds the addresses of those before: one that reads them before the new ones are
there connects to nobody. How often each machine has started its processes again is not the same on all. So the first
process gives all that are here now the name of a part of the store which nobody has written to.
"""

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol
from uuid import uuid4

from pytorch_dl.errors import PeerLostError

LONGEST = timedelta(minutes=30)  # from the first process that is here to the last
POLL_SECONDS = 0.05


class Store(Protocol):
    """What torch's stores offer."""

    def check(self, keys: list[str]) -> bool: ...
    def get(self, key: str) -> bytes: ...
    def set(self, key: str, value: str) -> None: ...


def meet(store: Store, *, rank: int, size: int, longest: timedelta = LONGEST) -> str:
    """The name of a new part of the store, the same in all processes; raises PeerLostError where one does not come."""
    own, end = uuid4().hex, time.monotonic() + longest.total_seconds()
    if rank == 0:
        _receive(store, range(1, size), place=own, end=end)
        return own
    store.set(f"here/{rank}", own)
    while not store.check([f"place/{own}"]):
        _wait(end, [0])
    place = store.get(f"place/{own}").decode()
    store.set(f"met/{place}/{rank}", "")
    return place


def _receive(store: Store, others: Sequence[int], *, place: str, end: float) -> None:
    """Tell the place to whoever says to be here, until all have heard of it: the dead say so as well, and hear not."""
    while missing := [other for other in others if not store.check([f"met/{place}/{other}"])]:
        for other in missing:
            if store.check([f"here/{other}"]):
                store.set(f"place/{store.get(f'here/{other}').decode()}", place)
        _wait(end, missing)


def _wait(end: float, missing: Sequence[int]) -> None:
    if time.monotonic() > end:
        ranks = f"rank{'s' * (len(missing) > 1)} {', '.join(map(str, missing))}"
        raise PeerLostError(f"{ranks} did not come", fix="see what kept them, and start all processes again")
    time.sleep(POLL_SECONDS)
