"""Who is named as lost where the store itself, or the process that keeps it, is gone."""

import threading
import time

import pytest

from pytorch_dl.training.heartbeat import KEEPER, Heartbeat

BEAT = 0.05


class Store:
    """In which rank 0 beats, until it is gone or, frozen, gives no answer; rank 2 never does."""

    def __init__(self) -> None:
        self.counts, self.is_gone, self.goes_on = {"0": 0, "1": 0, "2": 0}, False, threading.Event()
        self.goes_on.set()

    def add(self, key: str, amount: int) -> int:
        self.goes_on.wait()
        if self.is_gone:
            raise RuntimeError("no answer")
        self.counts["0"] += 1
        self.counts[key] += amount
        return self.counts[key]


def test_the_one_that_was_silent_before_is_named() -> None:
    """The first process keeps the store, knows of a lost one a moment sooner, and ends: it is not the lost one."""
    store = Store()
    with Heartbeat(store, rank=1, size=3, beat=BEAT, lost=60) as heartbeat:
        time.sleep(6 * BEAT)
        store.is_gone = True
        time.sleep(2 * BEAT)
        assert heartbeat.who_is_lost() == "rank 2"


def test_where_the_store_stands_still_its_keeper_is_named() -> None:
    """By one that notices it when another has ended before, which is not lost."""
    store = Store()
    with Heartbeat(store, rank=2, size=3, beat=BEAT, lost=60) as heartbeat:
        store.goes_on.clear()
        try:
            time.sleep(6 * BEAT)
            assert heartbeat.who_is_lost() == KEEPER
        finally:
            store.goes_on.set()


def test_a_lost_one_ends_who_waits_for_it_also_when_the_store_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The keeper ends a moment sooner for the same loss: who waits for the lost one does not wait as long again."""
    store, ended = Store(), threading.Event()
    told: list[tuple[str, float]] = []
    monkeypatch.setattr(Heartbeat, "_end", lambda _, silent: (told.append((silent, time.monotonic())), ended.set()))
    lost = 10 * BEAT
    begun = time.monotonic()
    with Heartbeat(store, rank=1, size=3, beat=BEAT, lost=lost):
        time.sleep(0.8 * lost)
        store.is_gone = True
        assert ended.wait(5 * lost)
    silent, when = told[0]
    assert silent == "rank 2"
    assert when - begun < 1.6 * lost
