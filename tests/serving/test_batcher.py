"""The queue of one thread: who is worked on together, what is refused, and what is given up."""

import threading
from concurrent.futures import CancelledError, wait

import pytest

from pytorch_dl.serving.batcher import Batcher, ClosedError, QueueFullError


class Work:
    """Upper case, once the door is open; remembers what it was given."""

    def __init__(self):
        self.door, self.entered, self.calls = threading.Event(), threading.Event(), []

    def __call__(self, texts, wish, is_wanted):
        self.calls.append((wish, list(texts)))
        self.entered.set()
        assert self.door.wait(30)
        if "bad" in texts:
            raise ValueError("bad")
        return [text.upper() for text in texts]


@pytest.fixture
def work():
    return Work()


@pytest.fixture
def batcher(work):
    batcher = Batcher(work, chunk=4, most=12)
    yield batcher
    work.door.set()
    batcher.close()


def begin(batcher, work):
    """Occupy the thread."""
    first = batcher.submit(["first"], "x")
    assert work.entered.wait(30)
    return first


def test_those_that_wait_and_wish_alike_go_together(batcher, work):
    first = begin(batcher, work)
    futures = [batcher.submit(*job) for job in ((["a"], "x"), (["b"], "y"), (["c", "d"], "x"))]
    work.door.set()
    assert [future.result(30) for future in (first, *futures)] == [["FIRST"], ["A"], ["B"], ["C", "D"]]
    assert work.calls == [("x", ["first"]), ("x", ["a", "c", "d"]), ("y", ["b"])]
    assert batcher.waiting == 0


def test_chunks_are_bounded_and_results_in_order(batcher, work):
    begin(batcher, work)
    long, short = batcher.submit([*"abcdef"], "x"), batcher.submit([*"gh"], "x")
    work.door.set()
    assert (long.result(30), short.result(30)) == ([*"ABCDEF"], [*"GH"])
    assert [texts for _, texts in work.calls] == [["first"], [*"abcd"], [*"ghef"]]


def test_nobody_waits_for_the_whole_of_a_long_job(batcher, work):
    begin(batcher, work)
    long, other = batcher.submit([*"abcdefghij"], "x"), batcher.submit(["k"], "y")
    work.door.set()
    assert (other.result(30), long.result(30)) == (["K"], [*"ABCDEFGHIJ"])
    assert [texts for _, texts in work.calls] == [["first"], [*"abcd"], ["k"], [*"efgh"], [*"ij"]]


def test_no_texts_are_done_at_once(batcher, work):
    work.door.set()
    assert batcher.submit([], "x").result(30) == []


def test_a_full_queue_refuses_and_has_room_again(batcher, work):
    first = begin(batcher, work)
    waiting = batcher.submit([*"abcdefghijk"], "x")
    with pytest.raises(QueueFullError):
        batcher.submit(["l"], "x")
    assert waiting.cancel()
    assert batcher.waiting == 1
    after = batcher.submit(["l"], "x")
    work.door.set()
    assert (first.result(30), after.result(30)) == (["FIRST"], ["L"])
    assert [texts for _, texts in work.calls] == [["first"], ["l"]]


def test_who_leaves_during_the_work_is_not_told_and_the_others_are(batcher, work):
    first = begin(batcher, work)
    assert first.cancel()
    other = batcher.submit(["a"], "x")
    work.door.set()
    assert other.result(30) == ["A"]
    with pytest.raises(CancelledError):
        first.result(0)


def test_a_failure_is_of_its_chunk_alone(batcher, work):
    begin(batcher, work)
    bad, good = batcher.submit(["bad"], "y"), batcher.submit(["a"], "x")
    work.door.set()
    assert good.result(30) == ["A"]
    with pytest.raises(ValueError, match="bad"):
        bad.result(30)


def test_work_is_told_when_nobody_waits():
    answers, submitted, asked = [], threading.Event(), threading.Event()

    def work(texts, wish, is_wanted):
        assert submitted.wait(30)
        answers.append(is_wanted())
        future.cancel()
        answers.append(is_wanted())
        asked.set()
        return texts

    batcher = Batcher(work)
    future = batcher.submit(["a"], 1)
    submitted.set()
    assert asked.wait(30)
    batcher.close()
    assert answers == [True, False]


def test_closing_gives_up_what_waits(work):
    batcher = Batcher(work)
    begin(batcher, work)
    waiting = batcher.submit(["a"], "y")
    closing = threading.Thread(target=batcher.close)
    closing.start()
    while not batcher._closed:
        pass
    work.door.set()
    closing.join(30)
    wait([waiting], 30)
    assert isinstance(waiting.exception(0), ClosedError)
    with pytest.raises(ClosedError):
        batcher.submit(["b"], "x")


def test_many_clients_at_once_each_have_their_own_answers():
    batcher = Batcher(lambda texts, wish, is_wanted: [f"{wish}{text}" for text in texts], chunk=3, most=10_000)
    futures = {(n, w): batcher.submit([f"{n}.{k}" for k in range(n % 7)], w) for n in range(200) for w in "xy"}
    for (n, w), future in futures.items():
        assert future.result(30) == [f"{w}{n}.{k}" for k in range(n % 7)]
    batcher.close()
